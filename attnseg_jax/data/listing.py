"""Which files a split is made of, so that a later part of a run can tell whether they are still the same."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attnseg_jax.data.sources import Source
from attnseg_jax.errors import UserError
from attnseg_jax.files import file_sha256

# Name of a file below the data set's folder -> its size, its time of change in ns, its SHA-256 or "".
Listing = dict[str, tuple[int, int, str]]
_SHOWN = 3


def files_of(source: Source) -> dict[str, Path]:
    """The files of a source by name, image and mask of every pair; none of a source that does not tell (`files`)."""
    return source.files() if hasattr(source, "files") else {}


def listing(source: Source, known: Mapping[str, tuple[int, int, str]] | None = None) -> Listing:
    """The files of a source, see `files_of`, and what they hold.

    Args:
      source: of a data set. Prepared data sets are known by the sizes of their files alone.
      known: an older listing, whose sums stand for files of the same size and time of change.
    """
    files = files_of(source)
    read_all = not getattr(source, "prepared", False)
    known = known or {}

    def entry(name: str, path: Path) -> tuple[int, int, str]:
        before = known.get(name)
        try:
            found = path.stat()
            if before and before[:2] == (found.st_size, found.st_mtime_ns):
                return before
            return found.st_size, found.st_mtime_ns, file_sha256(path) if read_all else ""
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}): restore or remove it") from None

    with ThreadPoolExecutor() as executor:
        return dict(zip(files, executor.map(entry, files, files.values())))


def listing_hash(found: Listing) -> str:
    """A SHA-256 of the names, sizes and contents of a listing; when and where the files lie does not count."""
    contents = sorted((name, size, digest) for name, (size, _, digest) in found.items())
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def difference(old: Listing, new: Listing) -> str:
    """What was added, removed and changed, in words; "" for nothing.

    >>> difference({"a.png": (5, 1, "ab"), "b.png": (5, 1, "cd")}, {"b.png": (5, 2, "ef"), "c.png": (5, 1, "ab")})
    '1 file added (c.png), 1 file removed (a.png), 1 file changed (b.png)'
    """
    changed = [name for name in old.keys() & new.keys() if (old[name][0], old[name][2]) != (new[name][0], new[name][2])]
    groups = {"added": new.keys() - old.keys(), "removed": old.keys() - new.keys(), "changed": changed}
    return ", ".join(_words(sorted(names), what) for what, names in groups.items() if names)


def _words(names: list[str], what: str) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} file{'s' if len(names) > 1 else ''} {what} ({shown})"
