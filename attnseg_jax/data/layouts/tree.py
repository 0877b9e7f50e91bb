"""The names of files below a folder, read once a folder and only where somebody asks."""

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


class Tree:
    """Folders and files below a root by their paths from it, with slashes; hidden ones are left out.

    Args:
      root: the folder.
      leave_out: of `config.data`, see `left_out`.
    """

    def __init__(self, root: Path, leave_out: Sequence[str] = ()):
        self.root = root
        self._exact = {*leave_out}
        self._patterns = tuple(pattern for pattern in leave_out if any(mark in pattern for mark in "*?["))
        self._entries: dict[str, tuple[list[str], list[str]]] = {}

    def entries(self, folder: str = "") -> tuple[list[str], list[str]]:
        """The names of the folders and of the files in a folder, sorted; nothing for one that is not there."""
        if folder not in self._entries:
            folders, files = [], []
            try:
                with os.scandir(self.root / folder) as found:
                    for entry in found:
                        # Such as the `._x.png` of macOS archives, which are no pictures.
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir():
                            folders.append(entry.name)
                        elif entry.is_file() and not self._left_out(f"{folder}/{entry.name}" if folder else entry.name):
                            files.append(entry.name)
            except OSError:
                pass
            self._entries[folder] = sorted(folders), sorted(files)
        return self._entries[folder]

    def _left_out(self, path: str) -> bool:
        return path in self._exact or (bool(self._patterns) and left_out(path, self._patterns))

    def below(self, folder: str = "") -> Iterator[str]:
        """A folder and all that are below it; one that a link leads back to is not visited twice."""
        seen = set()
        left = [folder]
        while left:
            here = left.pop()
            real = os.path.realpath(self.root / here)
            if real in seen:
                continue
            seen.add(real)
            yield here
            left += [f"{here}/{name}" if here else name for name in reversed(self.entries(here)[0])]

    def is_folder(self, folder: str) -> bool:
        """Whether there is such a folder."""
        return (self.root / folder).is_dir()

    def has(self, path: str) -> bool:
        """Whether there is such a file, which may also lie elsewhere (`../x.png`, `/x.png`)."""
        folder, _, name = path.rpartition("/")
        if path.startswith(("/", "../")) or "/../" in path:
            return (self.root / path).is_file()
        return name in self.entries(folder)[1]


def left_out(path: str, leave_out: Sequence[str]) -> bool:
    """Whether a file is named by `config.data.leave_out`, by its path below the folder or a pattern such as `old/*`."""
    return any(path == pattern or fnmatch.fnmatchcase(path, pattern) for pattern in leave_out)
