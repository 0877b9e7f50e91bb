"""Pictures that are parts of other files become files of their own: once, in the user's cache."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from absl import logging

from attnseg_jax.errors import UserError
from attnseg_jax.files import user_cache


def cache_folder(kind: str, root: Path, files: Iterable[Path], options: Sequence[str]) -> Path:
    """The folder for what some files below a root hold: another one where a file or an option is another."""
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(json.dumps([state, *options]).encode()).hexdigest()[:16]
    return user_cache() / "attnseg_jax" / kind / f"{root.name}-{key}"


def write_once(target: Path, what: str, write: Callable[[Path], None]) -> None:
    """Has a folder written, whole or not at all, where it is not there yet.

    Args:
      target: the folder.
      what: its contents in words.
      write: puts them into the folder that it is given.

    Raises:
      UserError: nothing can be written there; what `write` raises.
    """
    if target.is_dir():
        return
    logging.info("unpacking %s (once) into %s", what, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
        try:
            write(folder)
            try:
                folder.rename(target)
            except OSError:
                # Another process was faster.
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{target}: {what} cannot be unpacked here ({error.strerror or error}); another user's cache is named by "
            "XDG_CACHE_HOME"
        ) from error
