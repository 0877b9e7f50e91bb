"""Which files a split is made of, so that a later part of a run can tell whether they are still the same."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attnseg_jax.data.sources import Source
from attnseg_jax.errors import UserError
from attnseg_jax.files import file_sha256

# Of a file its size, its time of change in ns, its SHA-256 or "" where that is not known.
Entry = tuple[int, int, str]
# By the name below the data set's folder.
Listing = dict[str, Entry]
_SHOWN = 3


def files_of(source: Source) -> dict[str, Path]:
    """The files of a source by name, image and mask of every pair; none of a source that does not tell (`files`)."""
    return source.files() if hasattr(source, "files") else {}


def listing(source: Source, known: Mapping[str, Entry] | None = None, *, hashed: bool = True) -> Listing:
    """The files of a source, see `files_of`, and what they hold.

    Args:
      source: of a data set. Prepared data sets are known by the sizes of their files alone.
      known: an older listing, whose sums stand for files of the same size and time of change.
      hashed: whether files that are not known are read; without it their sums are "".
    """
    files, known = files_of(source), known or {}
    hashed = hashed and not getattr(source, "prepared", False)
    with ThreadPoolExecutor() as executor:
        entries = executor.map(lambda name: _entry(files[name], known.get(name), hashed), files)
        return dict(zip(files, entries))


def adding_to(found: Listing, source: Source) -> Callable[[int], None]:
    """An `on_read` of `data.sources.survey`: adds the files of a pair to a listing while the system still has them."""
    files = [] if getattr(source, "prepared", False) else list(files_of(source).items())
    # A folder's are in the order of its pairs. In another order the survey still adds all, after another pair.
    each = math.ceil(len(files) / len(source))

    def add(index: int) -> None:
        found.update({name: _entry(path, None, True) for name, path in files[index * each : (index + 1) * each]})

    return add


def _entry(path: Path, before: Entry | None, hashed: bool) -> Entry:
    try:
        found = path.stat()
        if before and before[:2] == (found.st_size, found.st_mtime_ns) and (before[2] or not hashed):
            return before
        return found.st_size, found.st_mtime_ns, file_sha256(path) if hashed else ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): restore or remove it") from None


def listing_hash(found: Listing) -> str:
    """A SHA-256 of the names, sizes and contents of a listing; when and where the files lie does not count."""
    contents = sorted((name, size, digest) for name, (size, _, digest) in found.items())
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def difference(old: Listing, new: Listing) -> str:
    """What was added, removed and changed, in words; "" for nothing. Files without a sum are compared by their sizes.

    >>> difference({"a.png": (5, 1, "ab"), "b.png": (5, 1, "cd")}, {"b.png": (5, 2, "ef"), "c.png": (5, 1, "ab")})
    '1 file added (c.png), 1 file removed (a.png), 1 file changed (b.png)'
    """
    changed = [name for name in old.keys() & new.keys() if not _alike(old[name], new[name])]
    groups = {"added": new.keys() - old.keys(), "removed": old.keys() - new.keys(), "changed": changed}
    return ", ".join(_words(sorted(names), what) for what, names in groups.items() if names)


def _alike(one: Entry, other: Entry) -> bool:
    return one[0] == other[0] and (one[2] == other[2] or not (one[2] and other[2]))


def _words(names: list[str], what: str) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} file{'s' if len(names) > 1 else ''} {what} ({shown})"
