"""Text files that list a data set: names, pairs of image and mask, or these with their split."""

import csv
import re
from dataclasses import dataclass

from attnseg_jax.data.layouts.pairing import Pair, Pairing
from attnseg_jax.data.layouts.tree import Tree
from attnseg_jax.errors import UserError

PLACES = (
    *("{split}.txt", "{split}.csv", "{split}.lst", "lists/{split}.txt", "splits/{split}.txt", "ImageSets/{split}.txt"),
    *("pairs.csv", "list.csv", "index.csv", "data.csv", "metadata.csv", "pairs.txt", "list.txt"),
)
"""Where lists of pairs are looked for, below the folder of a set."""

# What the columns of a table are called.
_COLUMNS = {
    "image": ("image", "images", "img", "image_path", "image_id", "filename", "file_name", "file", "picture"),
    "mask": ("mask", "masks", "label", "labels", "mask_path", "label_path", "annotation", "segmentation", "seg", "gt"),
    "split": ("split", "set", "subset", "partition", "fold"),
}


@dataclass(frozen=True)
class Row:
    """A line of a list; "" for what it does not tell."""

    image: str
    mask: str = ""
    split: str = ""


def read_list(tree: Tree, path: str) -> list[Row]:
    """The rows of a list: separated by commas, semicolons or tabs, otherwise by spaces; a CSV may have a heading.

    Raises:
      UserError: it cannot be read.
    """
    full = tree.root / path
    try:
        lines = [line for line in full.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{full}: the list cannot be read ({error}); mend or remove it") from None
    cells = [_cells(line) for line in lines if not line.startswith("#")]
    if not cells:
        return []
    heading = [cell.lower() for cell in cells[0]]
    at = {
        kind: next((heading.index(name) for name in names if name in heading), -1) for kind, names in _COLUMNS.items()
    }
    if at["image"] >= 0:
        cells = cells[1:]
    else:
        at = {"image": 0, "mask": 1, "split": 2}
    return [Row(*(_cell(row, at[kind]) for kind in ("image", "mask", "split"))) for row in cells]


def _cells(line: str) -> list[str]:
    for separator in ",;\t":
        if separator in line:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    return line.split()


def _cell(row: list[str], at: int) -> str:
    return row[at] if 0 <= at < len(row) else ""


def is_pairs(tree: Tree, path: str, tried: int = 3) -> bool:
    """Whether the first lines of a list name an image and a mask that are there."""
    if not tree.has(path):
        return False
    rows = read_list(tree, path)[:tried]
    return bool(rows) and any(row.mask and all(tree.has(p) for p in _resolved(tree, path, row)) for row in rows)


def _resolved(tree: Tree, path: str, row: Row) -> tuple[str, str]:
    """Image and mask as paths from the root, of which a list may also begin with a slash or at its own folder."""
    folder = path.rpartition("/")[0]

    def place(name: str) -> str:
        name = re.sub(r"^\./", "", name.replace("\\", "/"))
        relative = name.lstrip("/")
        beside = f"{folder}/{relative}" if folder else relative
        return next((p for p in (relative, beside, name) if tree.has(p)), relative)

    return place(row.image), place(row.mask)


def listed_pairs(tree: Tree, path: str, split: str = "") -> Pairing:
    """The pairs that a list names; those of one split where it tells their splits and one is asked for."""
    pairs, without, missing = [], [], []
    for row in read_list(tree, path):
        if split and row.split and row.split != split:
            continue
        image, mask = _resolved(tree, path, row)
        if not tree.has(image):
            missing.append(image)
        elif not row.mask or not tree.has(mask):
            without.append((image, mask or "(the list names none)"))
        else:
            pairs.append(Pair(image.rpartition(".")[0] or image, image, mask))
    pairs.sort(key=lambda pair: pair.name)
    return Pairing(pairs, len(pairs) + len(without), without, [], [], missing)


def splits_of(tree: Tree, path: str) -> list[str]:
    """The splits that a list tells of its rows."""
    return sorted({row.split for row in read_list(tree, path)} - {""}) if tree.has(path) else []
