"""Templates for data sets whose folders have names of their own, found from the names of their pictures."""

import functools
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from attnseg_jax.data.decode import DAMAGED
from attnseg_jax.data.layouts import Layout
from attnseg_jax.data.layouts.table import EXTENSIONS, MASK_MARKS
from attnseg_jax.data.layouts.templates import SUFFIXES, Form, matches
from attnseg_jax.data.layouts.tree import Tree

SPLIT_WORDS = ("training", "train", "validation", "valid", "val", "testing", "test", "dev", "eval")
_SPLIT = re.compile(rf"^({'|'.join(SPLIT_WORDS)})(?=[^a-zA-Z]|$)")
# Words in the names of folders with masks, the surest first.
_MASK_WORDS = ("manual", "annot", "label", "gt", "truth", "seg", "mask", "target")
# A name, and a word at its end.
_END = re.compile(r"(.+?)([-_. ][A-Za-z]+)")
_MOST_FOLDERS = 32
_MOST_FORMS = 20
_SAMPLED = 200
_FEW_COLOURS = 64


@dataclass(frozen=True)
class Guess:
    """A layout, how many pairs it has and the mask of the first, and how much its masks look like masks."""

    layout: Layout
    pairs: int
    first_mask: str
    looks: tuple[int, ...]


def is_split_word(name: str) -> bool:
    """Whether a folder is called as splits are.

    >>> is_split_word("train2017"), is_split_word("training"), is_split_word("site1")
    (True, True, False)
    """
    return bool(_SPLIT.match(name))


def guesses(tree: Tree) -> list[Guess]:
    """Layouts of templates that could be meant, the best first."""
    found_folders = folders(tree)
    found: dict[Form, Guess] = {}
    candidates = sorted((*_across(found_folders), *_beside(found_folders)), key=lambda candidate: -candidate[0])
    forms = [*dict.fromkeys(form for _, form in candidates)]
    if len(forms) > _MOST_FORMS:
        # Many folders of the same names are mostly masks of several kinds: each would be an image of the others.
        is_flat = functools.lru_cache(None)(functools.partial(_is_flat_folder, tree))
        forms.sort(key=lambda form: is_flat(form.images) >= is_flat(form.masks))
    for form in forms[:_MOST_FORMS]:
        layout = Layout("templates", form)
        splits = layout.splits(tree) if form.has_splits else [""]
        pairs = [pair for split in splits for pair in layout.pairing(tree, split).pairs]
        if pairs:
            found[form] = Guess(layout, len(pairs), pairs[0].mask, _looks(tree, form, pairs))
    most = max((guess.pairs for guess in found.values()), default=0)

    def rank(guess: Guess) -> tuple:
        flat, word = guess.looks
        form = guess.layout.form
        return flat, 2 * guess.pairs >= most, word, guess.pairs, -len(form.images) - len(form.masks)

    return sorted(found.values(), key=rank, reverse=True)


def folders(tree: Tree, most: int = _MOST_FOLDERS) -> dict[str, list[str]]:
    """The names of pictures by the template of their folder, of the fullest ones; words of splits are `{split}`.

    A folder counts for itself, and for the folders above it with `**`.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for folder in tree.below():
        names = [name for name in tree.entries(folder)[1] if name.lower().endswith(SUFFIXES)]
        template, word = _template(folder)
        if names and word:
            names = [re.sub(rf"(?<![A-Za-z]){word}(?![A-Za-z])", "{split}", name) for name in names]
        for of_folder in [template, *_collapsed(template)] if names else ():
            found[of_folder] += names
    fullest = sorted(found, key=lambda name: (-len(found[name]), len(name)))
    return {name: found[name] for name in fullest[:most]}


def _template(folder: str) -> tuple[str, str]:
    """The template of a folder, and the word in it that is a split."""
    parts = folder.split("/") if folder else []
    for i, part in enumerate(parts):
        if match := _SPLIT.match(part):
            parts[i] = "{split}" + part[match.end() :]
            return "/".join(parts), match[1]
    return folder, ""


def _collapsed(template: str) -> list[str]:
    """With `**` for the folders of patients, cities, videos or classes: at the end, or all but the last.

    >>> _collapsed("a/b/images")
    ['**', '**/images', 'a/**', 'a/**/images', 'a/b/**']
    """
    parts = template.split("/")
    least = next((i + 1 for i, part in enumerate(parts) if "{split}" in part), 0)
    found = []
    for kept in range(least, len(parts) if template else 0):
        found.append("/".join([*parts[:kept], "**"]))
        if kept < len(parts) - 1:
            found.append("/".join([*parts[:kept], "**", parts[-1]]))
    return found


def _across(folders: dict[str, list[str]]) -> Iterator[tuple[float, Form]]:
    """Images in one folder, masks in another: about how many pairs there are, and the form."""
    stems = {folder: [os.path.splitext(name)[0] for name in names] for folder, names in folders.items()}
    ends = {folder: _ends(of_folder) for folder, of_folder in stems.items()}
    # Names as they are, without what all end in, and without what all begin with too.
    ways = {folder: (("", ""), ("", after), (before, after)) for folder, (before, after) in ends.items()}
    cores = {folder: [{*_cores(stems[folder], way)} for way in of_folder] for folder, of_folder in ways.items()}
    for images, masks in itertools.permutations(folders, 2):
        if ("{split}" in masks and "{split}" not in images) or ("**" in masks) != ("**" in images):
            continue
        least = min(len(stems[images]), len(stems[masks]))
        for way, of_image, of_mask in zip(range(3), ways[images], ways[masks]):
            if both := len(cores[images][way] & cores[masks][way]):
                share = both / max(len(cores[images][way]), len(cores[masks][way]))
                yield share * least, Form(_named(images, of_image), _named(masks, of_mask))


def _cores(stems: Collection[str], ends: tuple[str, str]) -> Iterator[str]:
    before, after = ends
    for stem in stems:
        if stem.startswith(before) and stem.endswith(after):
            yield stem[len(before) : len(stem) - len(after)]


def _beside(folders: dict[str, list[str]]) -> Iterator[tuple[float, Form]]:
    """Both in the same folders, as of `_across`."""
    for folder, names in folders.items():
        prefix = f"{folder}/" if folder else ""
        by_suffix: dict[str, set[str]] = defaultdict(set)
        # In several folders a name occurs several times.
        often = len(names) / len({*names})
        for name in names:
            stem, suffix = os.path.splitext(name)
            by_suffix[suffix[1:].lower()].add(stem)
        by_end: dict[str, set[str]] = defaultdict(set)
        for stem in sorted(set().union(*by_suffix.values())):
            by_end[""].add(stem)
            if match := _END.fullmatch(stem):
                by_end[match[2]].add(match[1])
        for mask in filter(_is_of_masks, by_end):
            for image in by_end:
                if image != mask and (both := by_end[image] & by_end[mask]):
                    yield often * len(both), Form(f"{prefix}{{stem}}{image}.*", f"{prefix}{{stem}}{mask}.*")
        for image, mask in EXTENSIONS:
            if both := by_suffix[image] & by_suffix[mask]:
                yield often * len(both), Form(f"{prefix}{{stem}}.{image}", f"{prefix}{{stem}}.{mask}")


def _is_of_masks(end: str) -> bool:
    """Whether names of masks end so.

    >>> _is_of_masks("_L"), _is_of_masks("-labels"), _is_of_masks("_sat")
    (True, True, False)
    """
    return end in MASK_MARKS or any(word in end.lower() for word in _MASK_WORDS)


def _named(folder: str, ends: tuple[str, str]) -> str:
    before, after = ends
    return f"{folder}/{before}{{stem}}{after}.*" if folder else f"{before}{{stem}}{after}.*"


def _ends(stems: list[str]) -> tuple[str, str]:
    """What all names begin and end with, as far as it is a word of its own.

    >>> _ends(["img_01_rgb", "img_12_rgb"]), _ends(["21", "22"])
    (('img_', '_rgb'), ('', ''))
    """
    stems = stems[:_SAMPLED]
    if len(set(stems)) < 2:
        return "", ""
    before = _begin(stems)
    after = _begin([stem[len(before) :][::-1] for stem in stems])[::-1]
    # Digits belong to the number.
    before = before.rstrip("0123456789")
    match = re.search(r"[^0-9A-Za-z][^0-9]*[A-Za-z].*$|[A-Za-z]+\d*$", after)
    return before, match[0] if match else ""


def _begin(words: list[str]) -> str:
    """The letters with which all words begin."""
    first, last = min(words), max(words)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))]


def _looks(tree: Tree, form: Form, pairs: list) -> tuple[int, ...]:
    """Whether masks have few colours and images many; how the folder of the masks is called."""
    chosen = [pairs[0], pairs[len(pairs) // 2], pairs[-1]]
    flat_masks = sum(_is_flat(tree, pair.mask) for pair in chosen)
    flat_images = sum(_is_flat(tree, pair.image) for pair in chosen)
    words = form.masks.lower()
    word = next((len(_MASK_WORDS) - i for i, word in enumerate(_MASK_WORDS) if word in words), 0)
    return (flat_masks > flat_images) - (flat_masks < flat_images), word


def _is_flat_folder(tree: Tree, template: str) -> bool:
    """Whether the first picture that a template names looks like a mask."""
    return _is_flat(tree, next((path for path, _ in matches(tree, template)), ""))


def _is_flat(tree: Tree, path: str) -> bool:
    """Whether most of a picture has few colours, as drawn ones have."""
    try:
        with Image.open(tree.root / path) as image:
            image.draft("RGB", (256, 256))
            if image.mode.startswith(("I", "F")):
                return len(np.unique(image.resize((64, 64), Image.Resampling.NEAREST))) <= _FEW_COLOURS
            return image.convert("RGB").resize((96, 96), Image.Resampling.NEAREST).getcolors(_FEW_COLOURS) is not None
    except (*DAMAGED, Image.DecompressionBombError):
        return False
