"""Where published weights are: a path, a file of the Hugging Face Hub, or a name of the catalogue."""

import importlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.files import file_sha256
from attnseg_jax.weights import catalogue
from attnseg_jax.weights.download import downloaded
from attnseg_jax.weights.published import Published

_HUB = re.compile(r"hf://(?P<repository>[^/@]+/[^/@]+)(@(?P<revision>[^/@]+))?/(?P<file>[^@]+)")


@dataclass(frozen=True)
class Located:
    """A file of weights on this machine.

    Attributes:
      given: what named it.
      path: where it is.
      revision: the commit it is of, where it comes from the Hub.
      licence: where the catalogue knows it.
    """

    given: str
    path: Path
    revision: str = ""
    licence: str = ""

    def sha256(self) -> str:
        """Of the file's content."""
        return file_sha256(self.path)


def locate(given: str, *, key: str) -> Located:
    """Finds weights, and downloads them where they come from the Hub and are not there yet; logs a known licence.

    Args:
      given: a path; `hf://owner/name/file` or `hf://owner/name@revision/file` (branch, tag or commit), for which the
        package `huggingface_hub` is needed; a name of the catalogue, or `NAME=PATH` with the path of a copy of that
        name's file.
      key: of the config or command, for messages.

    Raises:
      UserError: there is no such file or name, it cannot be had, or is not the file that the catalogue knows.
    """
    if known := catalogue.entry(given):
        name, published = known
        copy = given.partition("=")[2]
        if copy and not os.path.isfile(path := os.path.expanduser(copy)):
            raise UserError(f"{key}={given}: there is no such file")
        found = Located(name, Path(path)) if copy else _fetch(published.source, name, key)
        logging.info("%s: %s, licence: %s", name, copy or published.source, published.licence)
        _check(found, published, key)
        return Located(name, found.path, found.revision, published.licence)
    if "://" in given:
        return _from_hub(given, given, key)
    return Located(given, _existing(given, key))


def _check(found: Located, published: Published, key: str) -> None:
    """Refuses a file that is known not to be the published one."""
    if not published.sha256:
        logging.info(
            "%s: the catalogue knows no SHA-256 of it; this file is of the commit %s, whose name can stand in "
            "hf://owner/name@COMMIT/file to have the same again", found.given, found.revision or "(unknown)",
        )  # fmt: skip
    elif not (digest := found.sha256()).startswith(published.sha256):
        raise UserError(
            f"{key}={found.given}: {found.path} has the SHA-256 {digest[: len(published.sha256)]}..., and that of the "
            f"published file begins with {published.sha256}: it is damaged or another one, install it again"
        )


def _existing(given: str, key: str) -> Path:
    # Leaves the home folder of nobody as it is, where `Path.expanduser` raises: then there is no such file.
    path = Path(os.path.expanduser(given))
    # `Path.exists` raises where a name is too long for the system.
    if not os.path.exists(path):
        names = [*catalogue.CATALOGUE, *catalogue.MODELS]
        raise UserError(
            f"{key}={given}: there is no such file or folder, and the catalogue has no such name "
            f"({nearest(given, names)})"
        )
    return path


def _fetch(source: str, given: str, key: str) -> Located:
    if source.startswith("package:"):
        return Located(given, _in_package(*source.removeprefix("package:").split("/", 1), given, key))
    if source.startswith("https://"):
        return Located(given, downloaded(source, f"{key}={given}"))
    return _from_hub(source, given, key)


def _from_hub(source: str, given: str, key: str) -> Located:
    match = _HUB.fullmatch(source)
    if not match:
        raise UserError(f"{key}={given} is not of the form hf://owner/name/file or hf://owner/name@revision/file")
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(f"{key}={given} needs the package huggingface_hub: pip install huggingface_hub") from None
    try:
        path = Path(
            hub.hf_hub_download(
                repo_id=match["repository"], filename=match["file"], revision=match["revision"] or "main"
            )
        )
    # Its errors, and those of the libraries below it, have no common class.
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"{key}={given} cannot be downloaded ({type(error).__name__}: {reason}): check the name and the "
            f"connection, or give the path of a copy{'' if source == given else f', {given}=PATH'}"
        ) from error
    # The cache keeps a file as .../snapshots/COMMIT/FILE.
    folder = path.parents[len(Path(match["file"]).parts) - 1]
    commit = folder.name if folder.parent.name == "snapshots" else match["revision"] or ""
    return Located(given, path, commit)


def _in_package(package: str, file: str, given: str, key: str) -> Path:
    # Looked for, not imported: nothing of the package runs.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise UserError(f"{key}={given} needs the package {name}: pip install {name}")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise UserError(f"{key}={given}: the package {package} has no {file}; install another version")
    return path
