"""Data sets with a mask for each class of an image, told by its name or its folder: found from names of pictures."""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Integer

from attnseg_jax.data import decode
from attnseg_jax.data.layouts import Layout
from attnseg_jax.data.layouts.guess import folders
from attnseg_jax.data.layouts.table import MASK_MARKS
from attnseg_jax.data.layouts.templates import CLASS, Form
from attnseg_jax.data.layouts.tree import Tree
from attnseg_jax.errors import UserError

_SEPARATORS = "_-. "
_MOST_CLASSES = 40
_MOST_FOLDERS, _MOST_PAIRED = 200, 32
# Smoothing and JPEG leave more values than that between two.
_FEW = 4
# Endings that say of a file that it is a mask, not of which class.
_MARKS = {mark.strip(_SEPARATORS).lower() for mark in MASK_MARKS}
_CLASS = f"{{{CLASS}}}"


def with_class_files(tree: Tree) -> tuple[Form, int] | None:
    """The form in which masks are named by their image and a class, and how many pictures it explains.

    As in `img/7.png` and `lab/7_vein.png`, or `images/7.png` and `masks/vein/7.png`. Masks of two values alone can be
    those of a class: one of each is read.
    """
    names_in = folders(tree, _MOST_FOLDERS)
    stems = {
        folder: [os.path.splitext(name)[0] for name in names]
        for folder, names in names_in.items()
        if "**" not in folder
    }
    candidates: list[tuple[int, Form]] = []
    for images, number, masks, files, counts in (*_by_name(stems), *_by_folder(stems)):
        # A class may be missing where it is nowhere in an image.
        classes = sorted(name for name, count in counts.items() if 4 * count >= number)
        explained = sum(counts[name] for name in classes)
        if 2 <= len(classes) <= _MOST_CLASSES and 2 * explained > files:
            prefix = f"{images}/" if images else ""
            candidates.append((explained, Form(f"{prefix}{{stem}}.*", masks, classes=tuple(classes))))
    for explained, form in sorted(candidates, key=lambda candidate: -candidate[0]):
        if pairs := _pairs(tree, form):
            chosen = pairs[len(pairs) // 2].classes
            if all(_of_two_values(tree, path) for path in chosen if path):
                return form, len(pairs) + explained
    return None


def _pairs(tree: Tree, form: Form) -> list:
    layout = Layout("templates", form)
    found = layout.splits(tree) if layout.has_splits else [""]
    return [pair for split in found for pair in layout.pairing(tree, split).pairs]


def _by_name(stems: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int, str, int, Counter[str]]]:
    """What could be images, and masks whose names end in a class.

    The folder of the images and their number, the template of the masks, their number and that of each class.
    """
    fullest = [*stems][:_MOST_PAIRED]
    for images, masks in itertools.product(fullest, fullest):
        if "{split}" in masks and "{split}" not in images:
            continue
        separator, counts = _classes({*stems[images]}, stems[masks])
        number, files = len({*stems[images]}), len(stems[masks])
        if images == masks:
            number, files = number - counts.total(), counts.total()
            if _MARKS & {name.lower() for name in counts}:
                continue
        yield images, number, f"{masks}/{{stem}}{separator}{_CLASS}.*".lstrip("/"), files, counts


def _by_folder(stems: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, int, str, int, Counter[str]]]:
    """The same of masks in a folder for each class, none of which lies beside that of the images."""
    groups: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for folder in stems:
        parts = folder.split("/")
        for i, part in enumerate(parts):
            if folder and "{" not in part:
                groups["/".join(parts[:i]), "/".join(["", *parts[i + 1 :]])][part] = folder
    for (above, below), of_group in groups.items():
        if len(of_group) < 2 or not above:
            continue
        for images in stems:
            if f"{images}/".startswith(f"{above}/") or ("{split}" in above + below and "{split}" not in images):
                continue
            ending = _ending({name: stems[folder][0] for name, folder in of_group.items()})
            names = {*stems[images]}
            counts = Counter(
                {
                    name: sum(f"{stem}{ending.replace(_CLASS, name)}" in found for stem in names)
                    for name, found in ((name, {*stems[folder]}) for name, folder in of_group.items())
                }
            )
            files = sum(len(stems[folder]) for folder in of_group.values())
            yield images, len(names), f"{above}/{_CLASS}{below}/{{stem}}{ending}.*", files, counts


def _ending(firsts: Mapping[str, str]) -> str:
    """What the names of masks end in beside their folder; `firsts` is a name of each class."""
    for separator in _SEPARATORS:
        if all(stem.endswith(f"{separator}{name}") for name, stem in firsts.items()):
            return f"{separator}{_CLASS}"
    return ""


def _classes(images: set[str], masks: Sequence[str]) -> tuple[str, Counter[str]]:
    """What follows the names of images in those of masks: the separator, and how often which class."""
    found: dict[str, Counter[str]] = {separator: Counter() for separator in _SEPARATORS}
    for stem in masks:
        places = (i for i in range(len(stem) - 1, 0, -1) if stem[i] in _SEPARATORS and stem[:i] in images)
        if (at := next(places, None)) is not None and stem[at + 1 :]:
            found[stem[at]][stem[at + 1 :]] += 1
    return max(found.items(), key=lambda item: item[1].total())


def _of_two_values(tree: Tree, path: str) -> bool:
    try:
        return is_binary(decode.decode_mask(tree.root / path, path, nearest=True))
    except UserError:
        return False


def is_binary(mask: Integer[np.ndarray, "h w"]) -> bool:
    """Whether a mask has two values, or one; what smoothing leaves between them does not count, nor 255 beside 0 and 1.

    >>> is_binary(np.array([[0, 1, 255]])), is_binary(np.array([[0, 7]])), is_binary(np.array([[0, 1, 2]]))
    (True, True, False)
    """
    values, counts = np.unique(mask, return_counts=True)
    if len(values) <= _FEW:
        return len(values) <= 2 or values.tolist() == [0, 1, 255]
    values = values.astype(np.int64)
    low, high = values[0], values[-1]
    middle = (8 * (values - low) > high - low) & (8 * (high - values) > high - low)
    return bool(50 * counts[middle].sum() <= mask.size)
