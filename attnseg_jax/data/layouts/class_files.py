"""Data sets with a mask for each class of an image, told by its name: found from the names of their pictures."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from attnseg_jax.data.layouts.guess import folders
from attnseg_jax.data.layouts.templates import Form
from attnseg_jax.data.layouts.tree import Tree

_SEPARATORS = "_-. "
_MOST_CLASSES = 40


def with_class_files(tree: Tree) -> Form | None:
    """The form in which the name of a mask is its image's and a class, as in `img/7.png` and `lab/7_vein.png`."""
    stems = {folder: [os.path.splitext(name)[0] for name in names] for folder, names in folders(tree).items()}
    best, most = None, 0
    for images, masks in ((a, b) for a in stems for b in stems if a != b and "**" not in a + b):
        if "{split}" in masks and "{split}" not in images:
            continue
        separator, counts = _classes({*stems[images]}, stems[masks])
        # A class may be missing where it is nowhere in an image.
        classes = sorted(name for name, count in counts.items() if 4 * count >= len(stems[images]))
        explained = sum(counts[name] for name in classes)
        if 2 <= len(classes) <= _MOST_CLASSES and explained > max(most, len(stems[masks]) // 2):
            names = f"{images}/{{stem}}.*", f"{masks}/{{stem}}{separator}{{class}}.*"
            best, most = Form(*names, classes=tuple(classes)), explained
    return best


def _classes(images: set[str], masks: Sequence[str]) -> tuple[str, Mapping[str, int]]:
    """What follows the names of images in those of masks: the separator, and how often which class."""
    found: dict[str, Counter[str]] = {separator: Counter() for separator in _SEPARATORS}
    for stem in masks:
        places = (i for i in range(len(stem) - 1, 0, -1) if stem[i] in _SEPARATORS and stem[:i] in images)
        if (at := next(places, None)) is not None and stem[at + 1 :]:
            found[stem[at]][stem[at + 1 :]] += 1
    return max(found.items(), key=lambda item: item[1].total())
