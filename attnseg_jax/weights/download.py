"""Files of published weights from a web server, kept in the user's cache."""

import contextlib
import http.client
import os
import shutil
import urllib.parse
import urllib.request
from pathlib import Path

from absl import logging

from attnseg_jax.errors import UserError
from attnseg_jax.files import user_cache

_SECONDS = 60


def downloaded(url: str, what: str) -> Path:
    """The file that `url` names, which is fetched where it is not in the cache yet.

    Args:
      url: `https://host/path`, of the catalogue.
      what: asked for it, for messages.

    Raises:
      UserError: it cannot be fetched or kept.
    """
    parts = urllib.parse.urlsplit(url)
    path = user_cache() / "attnseg_jax" / "weights" / parts.netloc / parts.path.lstrip("/")
    if path.is_file():
        return path
    logging.info("%s: fetching %s", what, url)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer, temporary.open("wb") as file:
            shutil.copyfileobj(answer, file)
        length = answer.headers.get("Content-Length")
        if length is not None and temporary.stat().st_size != int(length):
            raise OSError(f"{temporary.stat().st_size} of {length} bytes came")
        os.replace(temporary, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        name = what.rpartition("=")[2]
        raise UserError(
            f"{what}: {url} cannot be had ({reason}): check the connection, or fetch it otherwise and give "
            f"{name}=PATH, the path of the copy"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return path
