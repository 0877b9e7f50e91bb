"""Class names and colours from the files that data sets bring along, such as classes.txt or class_dict.csv."""

import json
import re
from dataclasses import dataclass

from attnseg_jax.data.datasets import Colour
from attnseg_jax.data.layouts import Tree

FILES = (
    *("classes.txt", "class_names.txt", "labels.txt", "class_dict.csv", "label_colors.txt", "label_colours.txt"),
    *("labelmap.txt", "colors.txt", "classes.csv", "labels.csv", "id2label.json"),
)
"""Where names are looked for, below the folder of a set; in the forms `name`, `id name`, `name r g b`, `r g b name`, or
JSON of ids and names."""

VOID_WORDS = {"void", "unlabelled", "unlabeled", "ignore", "ignored", "undefined", "unknown", "other_void"}
"""Names of what has no class."""


@dataclass(frozen=True)
class Named:
    """A class of a file: its raw id or its colour where the file tells them."""

    name: str
    id: int | None = None
    colour: Colour | None = None

    @property
    def void(self) -> bool:
        """Whether the name says that these pixels have no class."""
        return self.name.lower().strip("_ ") in VOID_WORDS


@dataclass(frozen=True)
class NameTable:
    """The classes of the file `path`, in its order."""

    path: str
    classes: tuple[Named, ...]

    @property
    def coloured(self) -> bool:
        """Whether every class has a colour."""
        return all(named.colour for named in self.classes)


def find_names(tree: Tree) -> NameTable | None:
    """The first of `FILES` that names classes; None for none."""
    files = {name.lower(): name for name in tree.entries()[1]}
    for wanted in FILES:
        if wanted in files:
            try:
                text = (tree.root / files[wanted]).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError):
                continue
            if classes := parse(text):
                return NameTable(files[wanted], classes)
    return None


def parse(text: str) -> tuple[Named, ...]:
    """The classes of a text, one a line; headings and comments are left out, as is what holds no name.

    >>> parse("name,r,g,b\\nroad,128,64,128\\n")
    (Named(name='road', id=None, colour=(128, 64, 128)),)
    >>> [named.name for named in parse("0: background\\n1: cell wall")]
    ['background', 'cell wall']
    >>> parse("64 128 64\\tAnimal")[0].colour
    (64, 128, 64)
    >>> parse('{"0": "sky", "7": "sea"}')[1]
    Named(name='sea', id=7, colour=None)
    """
    if text.lstrip().startswith("{"):
        return _parse_json(text)
    found = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        numbers = re.findall(r"(?<![\w.])\d+(?![\w.])", line)
        name = " ".join(re.sub(r"(?<![\w.])\d+(?![\w.])|[,;:\t]", " ", line).split()).strip("\"' ")
        if not name or name.lower() in ("name r g b", "name", "label", "label color_rgb parts actions"):
            continue
        values = [int(number) for number in numbers]
        if len(values) >= 3 and all(value <= 255 for value in values[-3:]):
            colour = tuple(values[-3:]) if len(values) != 3 or not line.strip()[0].isdigit() else tuple(values)
            found.append(Named(name, values[0] if len(values) == 4 else None, colour))
        else:
            found.append(Named(name, values[0] if len(values) == 1 and line.strip()[0].isdigit() else None))
    unique = {named.name: named for named in found}
    return tuple(found) if len(unique) == len(found) else ()


def _parse_json(text: str) -> tuple[Named, ...]:
    try:
        named = {int(id): str(name) for id, name in json.loads(text).items()}
    except (ValueError, AttributeError):
        return ()
    return tuple(Named(name, id) for id, name in sorted(named.items())) if len({*named.values()}) == len(named) else ()
