"""Files that are either whole or absent, folders that are ready for them, and what several rooms read."""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from absl import logging

from attnseg_jax.errors import UserError


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path`, making its folder; a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}


def out_of_space(error: BaseException | None) -> str:
    """Why a write found no space, in the words of the system; "" for an error of another kind.

    >>> out_of_space(OSError(errno.ENOSPC, "No space left on device")), out_of_space(OSError(errno.ENOENT, "none"))
    ('No space left on device', '')
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return _FULL[error.errno]
        # Libraries put it into errors of their own.
        if found := next((words for words in _FULL.values() if words in str(error)), ""):
            return found
        error = error.__cause__ or error.__context__
    return ""


def read_series(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The steps and values of each metric in a metrics.jsonl; nulls and a torn last line are left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a training writes it into its workdir") from None
    series: dict[str, tuple[list[int], list[float]]] = {}
    for number, line in enumerate(lines):
        try:
            values = {name: value if value is None else float(value) for name, value in json.loads(line).items()}
            step = int(values.pop("step"))
        except (ValueError, AttributeError, KeyError, TypeError):
            if number == len(lines) - 1:
                break
            raise UserError(f"{path}: line {number + 1} is not JSON; mend or remove it") from None
        for name, value in values.items():
            if value is not None:
                steps, numbers = series.setdefault(name, ([], []))
                steps.append(step)
                numbers.append(value)
    return series


def expanded(path: str | os.PathLike) -> Path:
    """`path` with the home folder for its `~`, which shells leave alone in `--flag=~/folder`."""
    return Path(os.path.expanduser(path))


def user_cache() -> Path:
    """The user's folder of caches (XDG base directories)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says to ignore a relative path there.
    return Path(home) if os.path.isabs(home) else Path.home() / ".cache"


def make_folder(folder: Path) -> None:
    """Makes `folder`; OSError where that cannot be, or no file can be put there."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def check_folder(flag: str, folder: Path, given: Path | None = None) -> None:
    """Makes `folder`, before hours of work rather than after.

    Raises:
      UserError: no file can be put there; the message begins with `flag` and `given`, by default the folder.
    """
    try:
        make_folder(folder)
    except OSError as error:
        raise UserError(f"{flag}={given or folder} cannot be used ({error.strerror}): choose another one") from error


def target(flag: str, given: str | os.PathLike) -> Path:
    """The `expanded` path of the file that a flag names, before the work whose result it is to hold.

    Raises:
      UserError: it is a folder, or no file can be put there.
    """
    path = expanded(given)
    if path.is_dir():
        raise UserError(f"{flag}={path} is a folder: name a file")
    check_folder(flag, path.parent, given=path)
    return path


@contextmanager
def locked_workdir(folder: Path, whose: str) -> Iterator[BinaryIO]:
    """Keeps `folder`, which it makes, to this process and to the children that get the open file.

    Raises:
      UserError: it is in use by `whose`, or no file can be put there.
    """
    check_folder("--workdir", folder)
    with (folder / ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--workdir={folder} is in use by {whose}: wait, or stop it") from None
        except OSError as error:
            logging.warning("%s cannot be locked (%s): start nothing else there", folder, error.strerror)
        yield file
