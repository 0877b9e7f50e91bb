"""The areas of the classes in pictures, as a CSV file that grows picture by picture."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from attnseg_jax.errors import UserError
from attnseg_jax.files import write_atomically
from attnseg_jax.inference import pictures


class Areas:
    """`areas.csv`: a line for each picture, at once, so that it tells which are done.

    Args:
      path: of the file; its whole lines are kept.
      names: of the classes.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        header = [
            "picture",
            "output",
            "height",
            "width",
            *(f"{name} {what}" for name in names for what in ("pixels", "share")),
        ]
        rows = _rows(path)
        if rows and rows[0] != header:
            raise UserError(f"{path} has the columns of other classes: give another --output, or remove it")
        self._path, self._header = path, header
        self._rows = {row[1]: row for row in rows[1:] if len(row) == len(header)}
        self._write_all()

    def __contains__(self, picture: pictures.Picture) -> bool:
        return str(picture.target) in self._rows

    def check_free(self, picture: pictures.Picture) -> None:
        """Raises UserError where another picture has the outputs that this one would have."""
        row = self._rows.get(str(picture.target))
        if row and Path(row[0]).resolve() != picture.path.resolve():
            raise UserError(
                f"{picture.name}: its outputs would replace those of {row[0]} in {self._path.parent}: give another "
                "--output"
            )

    def add(self, picture: pictures.Picture, size: tuple[int, int], counts: Sequence[int], pixels: int = 0) -> None:
        """Appends the line of a picture with the pixels of each class; one that is there is replaced.

        Shares are of so many `pixels`, by default of those of all classes.
        """
        pixels = pixels or max(sum(counts), 1)
        target, (h, w) = str(picture.target), size
        known = target in self._rows
        numbers = (value for count in counts for value in (count, f"{count / pixels:.6f}"))
        self._rows[target] = [picture.name, target, h, w, *numbers]
        if known:
            self._write_all()
        else:
            with self._path.open("ab") as file:
                file.write(csv_bytes([self._rows[target]]))

    def _write_all(self) -> None:
        write_atomically(self._path, csv_bytes([self._header, *self._rows.values()]))


def _rows(path: Path) -> list[list[str]]:
    """The whole lines of a file; a last one that was cut short has no end."""
    try:
        text = path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return []
    return list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))


def csv_bytes(rows: Sequence[Sequence]) -> bytes:
    """The rows as lines of a CSV file; names of files that are no UTF-8 stay as they are."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")
