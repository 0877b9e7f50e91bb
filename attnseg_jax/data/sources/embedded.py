"""The embedded data set on disk: drawn on first use, whole or not at all, and again where it is damaged."""

import contextlib
import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import constants

from attnseg_jax.data.context.builder import AttnsegContext
from attnseg_jax.errors import UserError
from attnseg_jax.files import file_sha256, write_atomically

NAME = AttnsegContext.name
# SHA-256 of the files beside it.
DIGESTS = "digests.json"
_DRAWING = f".{NAME}.drawing"


def ensure(name: str, directory: str) -> None:
    """Draws the embedded set where it is missing or damaged; one process does, others wait.

    Args:
      name: of the TFDS data set, with its configuration.
      directory: data_dir of TFDS, "" for its default.

    Raises:
      UserError: it cannot be written, or would stand among the pictures of a user.
    """
    root = Path(os.path.expanduser(directory or constants.DATA_DIR))
    folder = _folder(name, root)
    if _intact(folder):
        return
    if own := next((part for part in ("images", "masks", "train", "trainannot") if (root / part).is_dir()), ""):
        raise UserError(
            f"config.data.dir={root} holds a folder {own!r}, and the embedded data set would be drawn beside it: "
            "for the pictures in there set config.data.source='folder', for the embedded ones another config.data.dir"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root):
            # Another process may have drawn it meanwhile.
            if not _intact(folder):
                _draw(name, root, folder)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder}: cannot be written ({reason}); choose another folder with config.data.dir"
        ) from error


def _folder(name: str, root: Path) -> Path:
    # Where nothing is, so that no damaged file is read.
    empty = root / _DRAWING
    return root / Path(tfds.builder(name, data_dir=empty).data_path).relative_to(empty)


def _intact(folder: Path) -> bool:
    info = folder / "dataset_info.json"
    if not info.exists():
        return False
    try:
        digests = json.loads((folder / DIGESTS).read_text())
        damaged = [name for name, digest in digests.items() if file_sha256(folder / name) != digest]
    except FileNotFoundError as error:
        damaged = [Path(error.filename).name]
    except (OSError, ValueError, AttributeError):
        damaged = [DIGESTS]
    if damaged:
        logging.warning("%s is damaged: the data set is drawn again", folder / damaged[0])
    return not damaged


def _write_digests(folder: Path) -> None:
    digests = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != DIGESTS}
    write_atomically(folder / DIGESTS, json.dumps(digests, indent=1).encode())


def _draw(name: str, root: Path, folder: Path) -> None:
    logging.info("drawing the data set %s (once) into %s", name, folder)
    drawing = root / _DRAWING
    # Of a process that was killed.
    shutil.rmtree(drawing, ignore_errors=True)
    try:
        builder = tfds.builder(name, data_dir=drawing)
        tfds.disable_progress_bar()
        # TFDS announces downloads on stdout, where the commands print their results.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format="array_record")
        drawn = Path(builder.data_path)
        _write_digests(drawn)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rename(drawing / "damaged")
        drawn.rename(folder)
    finally:
        shutil.rmtree(drawing, ignore_errors=True)


@contextlib.contextmanager
def _lock(root: Path) -> Iterator[None]:
    with (root / f".{NAME}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
