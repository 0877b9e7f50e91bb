"""Which mask belongs to which image: the files that two templates name, paired by the fields that both have."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from attnseg_jax.data.layouts.templates import (
    CLASS,
    FIRST_SUFFIXES,
    SUFFIXES,
    Form,
    fields,
    filled,
    fixed_folder,
    literal,
    matches,
)
from attnseg_jax.data.layouts.tree import Tree
from attnseg_jax.errors import UserError


@dataclass(frozen=True)
class Pair:
    """An image and its mask, as paths below the folder of the set; `name` is what tells the pair from others.

    `more` are the masks of further objects, `bands` the files of further channels, `classes` the masks of all classes
    in their order, None for one without a file.
    """

    name: str
    image: str
    mask: str
    more: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    classes: tuple[str | None, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """All files of the image."""
        return self.image, *self.bands

    @property
    def masks(self) -> tuple[str | None, ...]:
        """All masks."""
        return self.classes or (self.mask, *self.more)


@dataclass
class Pairing:
    """The files of a split.

    Attributes:
      pairs: in the order of their names.
      images: how many there are, with or without a mask.
      without_mask: images, each with where its mask would be.
      without_image: masks.
      doubles: pictures that differ in their suffix alone, each with the one that is taken.
      missing: names of a list without an image.
    """

    pairs: list[Pair]
    images: int
    without_mask: list[tuple[str, str]]
    without_image: list[str]
    doubles: list[tuple[str, str]]
    missing: list[str]

    def check(self, root: Path, form: Form) -> list[Pair]:
        """The pairs below a root.  Raises UserError for images that cannot be paired, and where there are none."""
        if self.doubles:
            path, other = self.doubles[0]
            raise UserError(
                f"{root / path}: {Path(other).name} has the same name without suffix; remove one of the two"
            )
        if self.missing:
            raise UserError(f"{root}: a list names {self.missing[0]}, of which there is no image; restore it")
        if self.without_mask:
            path, mask = self.without_mask[0]
            others = f" (and {len(self.without_mask) - 1} more images)" if len(self.without_mask) > 1 else ""
            raise UserError(
                f"{root / path}: the image has no mask{others}; put it at {root / mask}, or remove the image, or leave "
                "it out by config.data.leave_out"
            )
        if not self.pairs:
            where = root / fixed_folder(form.images)
            raise UserError(f"{where}: no images in this folder ({', '.join(s[1:] for s in SUFFIXES)} are read)")
        if self.without_image:
            logging.warning(
                "%s: %d mask(s) without an image are left out, such as %s",
                root / fixed_folder(form.masks),
                len(self.without_image),
                root / self.without_image[0],
            )
        return self.pairs


def paired(tree: Tree, form: Form, names: list[str] | None = None) -> Pairing:
    """The images and masks of a form of one split (see `Form.of_split`), paired by the fields that both have.

    Args:
      tree: the files of the set.
      form: without `{split}`.
      names: stems, where a list tells which images belong to the split.
    """
    free = {"split", *["stem"] * form.objects, *[CLASS] * bool(form.classes)}
    shared = sorted(fields(form.masks) - free)
    found_masks, found_images = _mask_files(tree, form), list(matches(tree, form.images))
    found_images, found_masks = _apart(form, found_images, found_masks)
    doubles: list[tuple[str, str]] = []
    of_classes = _of_classes(found_masks, shared, form.classes, doubles)
    masks = _by_key(found_masks, shared, [] if form.objects or form.classes else doubles)
    more = _further(found_masks, shared) if form.objects else {}
    # Several images may share a mask, such as those of bands; they differ in another field.
    images = _by_key(found_images, sorted({key for _, values in found_images for key in values}), doubles)
    listed = None if names is None else dict.fromkeys(names)
    # Of several images in a folder nobody knows whose the objects are.
    alone = Counter(_key(values, shared) for _, values in images.values())
    pairs, without, used = [], [], set()
    for path, values in images.values():
        name = name_of(values)
        if listed is not None and name not in listed:
            continue
        key = _key(values, shared)
        if key in masks and not (form.objects and alone[key] > 1):
            pairs.append(Pair(name, path, masks[key][0], more.get(key, ()), classes=of_classes.get(key, ())))
            used.add(key)
        else:
            without.append((path, filled(form.masks, values)))
    known = {name_of(values) for _, values in images.values()}
    missing = [] if listed is None else [name for name in listed if name not in known]
    # A list leaves masks of other splits aside.
    unused = [] if listed is not None else [masks[key][0] for key in masks if key not in used]
    pairs.sort(key=lambda pair: pair.name)
    return Pairing(pairs, len(pairs) + len(without), sorted(without), sorted(unused), doubles, missing)


def _mask_files(tree: Tree, form: Form) -> list[tuple[str, dict[str, str]]]:
    """The files of masks and what their fields stand for, `{class}` for one of the form's classes."""
    if not form.classes:
        return list(matches(tree, form.masks))
    found = []
    for name in form.classes:
        of_class = matches(tree, form.masks.replace(f"{{{CLASS}}}", name))
        found += [(path, {**values, CLASS: name}) for path, values in of_class]
    return found


def _of_classes(
    found: list, names: list[str], classes: tuple[str, ...], doubles: list[tuple[str, str]]
) -> dict[tuple, tuple[str | None, ...]]:
    """The files of each key by class, where each class has its own."""
    if not classes:
        return {}
    by_key: dict[tuple, dict[str, str]] = {}
    for (*key, name), (path, _) in _by_key(found, [*names, CLASS], doubles).items():
        by_key.setdefault(tuple(key), {})[name] = path
    return {key: tuple(files.get(name) for name in classes) for key, files in by_key.items()}


def _apart(form: Form, images: list, masks: list) -> tuple[list, list]:
    """Where both templates name a file, the one that says more about its name has it."""
    both = {path for path, _ in images} & {path for path, _ in masks}
    if not both:
        return images, masks
    of_images, of_masks = (len(literal(template)) for template in (form.images, form.masks))
    if of_images > of_masks:
        return images, [found for found in masks if found[0] not in both]
    return [found for found in images if found[0] not in both], masks


def _by_key(found: list, names: list[str], doubles: list[tuple[str, str]]) -> dict[tuple, tuple[str, dict[str, str]]]:
    by_key: dict[tuple, tuple[str, dict[str, str]]] = {}
    for path, values in found:
        key = _key(values, names)
        if key not in by_key:
            by_key[key] = path, values
        elif _first(path) == _first(by_key[key][0]):
            doubles.append((path, by_key[key][0]))
        elif _first(path):
            by_key[key] = path, values
    return by_key


def _key(values: Mapping[str, str], names: list[str]) -> tuple[str, ...]:
    return tuple(values.get(name, "") for name in names)


def _further(found: list, names: list[str]) -> dict[tuple, tuple[str, ...]]:
    """All files of each key but the first."""
    by_key: dict[tuple, list[str]] = {}
    for path, values in found:
        by_key.setdefault(_key(values, names), []).append(path)
    return {key: tuple(paths[1:]) for key, paths in by_key.items()}


def _first(path: str) -> bool:
    return path.lower().endswith(FIRST_SUFFIXES)


def name_of(values: Mapping[str, str]) -> str:
    """What tells a pair from others: its fields, folders before the stem."""
    inner = [value for key, value in values.items() if key not in ("split", "stem") and value]
    return "/".join([*inner, values["stem"]])
