"""File names of a data set as templates: which images there are, and which mask belongs to which image.

`images/{split}/{stem}.*` names images below the folder of a set, `masks/{split}/{stem}_mask.png` their masks. A name in
braces stands for any text without a slash, the same in both; `**` for any number of folders, and is `{dir}` elsewhere;
`.*` at the end for the suffix of any picture; another `*` for any text. Without `{stem}` the last `*` is it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from attnseg_jax.data.layouts.tree import Tree
from attnseg_jax.errors import UserError

FIRST_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Where two pictures differ in their suffix alone, one of these is meant rather than one of the others."""
SUFFIXES = (*FIRST_SUFFIXES, ".tif", ".tiff", ".bmp", ".gif", ".webp", ".npy")

_ANY_SUFFIX = r"\.(?:" + "|".join(suffix[1:] for suffix in SUFFIXES) + ")"
_TOKEN = re.compile(r"\{(\w+)\}|(\*)")
_DIR, _CLASS = "dir", "class"


@dataclass(frozen=True)
class Form:
    """How the files of a data set are named, as paths below its folder.

    Attributes:
      images: template of the images.
      masks: template of their masks.
      names: template of text files that list the stems of a split, one a line; "" where the folders tell.
      objects: whether an image has a mask for each of its objects, which differ in `{stem}`.
      coco: whether `masks` is a JSON file of COCO, which lists the images.
      classes: what `{class}` of `masks` stands for, where each class has a mask of its own.
    """

    images: str
    masks: str
    names: str = ""
    objects: bool = False
    coco: bool = False
    classes: tuple[str, ...] = ()

    @property
    def has_splits(self) -> bool:
        """Whether the names of files tell the split."""
        return "{split}" in self.images or "{split}" in self.names

    def of_split(self, split: str) -> "Form":
        """The form of one split alone."""
        parts = {name: getattr(self, name).replace("{split}", split) for name in ("images", "masks", "names")}
        return replace(self, **parts)


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


def fixed_folder(template: str) -> str:
    """The folder of a template as far as it is the same for all files.

    >>> fixed_folder("images/train/{stem}.*"), fixed_folder("*.png")
    ('images/train', '')
    """
    folders = template.split("/")[:-1]
    first = next((i for i, part in enumerate(folders) if _TOKEN.search(part)), len(folders))
    return "/".join(folders[:first])


def fields(template: str) -> set[str]:
    """The names in braces of a template, `dir` for `**`.

    >>> sorted(fields("img/{split}/**/*.tif"))
    ['dir', 'split', 'stem']
    """
    found = set()
    for part in _normal(template):
        found |= {_DIR} if part == "**" else {token[1] for token in _TOKEN.finditer(part) if token[1]}
    return found


def matches(tree: Tree, template: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The files that a template names, and what its fields stand for, in the order of their folders and names."""
    yield from _descend(tree, _normal(template), "", {})


def splits(tree: Tree, form: Form) -> list[str]:
    """The names that `{split}` could stand for; not each of them need have files."""
    if form.names:
        return sorted({found["split"] for _, found in matches(tree, form.names) if "split" in found})
    return sorted(_splits(tree, form.images) & (_splits(tree, form.masks) or _splits(tree, form.images)))


def _splits(tree: Tree, template: str) -> set[str]:
    parts = _normal(template)
    at = next((i for i, part in enumerate(parts) if "{split}" in part), None)
    if at is None:
        return set()
    if at == len(parts) - 1:
        return {found["split"] for _, found in matches(tree, template)}
    # Folders are enough.
    return {found["split"] for _, found in _descend(tree, parts[: at + 1], "", {}, folders=True)}


@lru_cache(maxsize=4096)
def _normal(template: str) -> tuple[str, ...]:
    """The components of a template, with `{stem}` and `**` spelled out."""
    parts = ["**" if part == f"{{{_DIR}}}" else part for part in template.split("/")]
    if "{stem}" not in template and "*" in (last := parts[-1]):
        parts[-1] = "{stem}.*" if last == "*" else last.replace("*", "{stem}", 1)
    return tuple(parts)


@lru_cache(maxsize=4096)
def _pattern(part: str) -> re.Pattern | None:
    """The regular expression of a component of a template; None for one that stands for itself."""
    suffix = ""
    if part.endswith(".*"):
        part, suffix = part[:-2], f"(?i:{_ANY_SUFFIX})"
    elif match := re.search(r"\.\w+$", part):
        part, suffix = part[: match.start()], f"(?i:{re.escape(match[0])})"
    elif not _TOKEN.search(part):
        return None
    text, at, seen = "", 0, set()
    for token in _TOKEN.finditer(part):
        text += re.escape(part[at : token.start()])
        name = token[1]
        text += ".*" if not name else f"(?P={name})" if name in seen else f"(?P<{name}>.+)"
        seen.add(name)
        at = token.end()
    return re.compile(text + re.escape(part[at:]) + suffix, re.DOTALL)


def _descend(
    tree: Tree, parts: tuple[str, ...], folder: str, found: dict[str, str], folders: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    part, rest = parts[0], parts[1:]
    if part == "**":
        for below in tree.below(folder):
            relative = below[len(folder) :].lstrip("/")
            if found.get(_DIR, relative) == relative:
                yield from _descend(tree, rest, below, {**found, _DIR: relative}, folders)
        return
    pattern = _pattern(part)
    if pattern is None and rest:
        yield from _descend(tree, rest, _join(folder, part), found, folders)
        return
    inner, files = tree.entries(folder)
    for name in inner if rest or folders else files:
        match = pattern.fullmatch(name) if pattern else name == part or None
        if match is None:
            continue
        values = match.groupdict() if pattern else {}
        if any(found.get(key, value) != value for key, value in values.items()):
            continue
        if rest:
            yield from _descend(tree, rest, _join(folder, name), {**found, **values}, folders)
        else:
            yield _join(folder, name), {**found, **values}


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def check(form: Form) -> None:
    """Raises UserError for templates that cannot tell which mask belongs to which image."""
    images, masks = fields(form.images), fields(form.masks)
    for key, found in (("images", images), ("masks", masks)):
        if "stem" not in found:
            raise UserError(
                f"config.data.{key}={getattr(form, key)!r} tells no files apart: write {{stem}} or * where their names "
                "differ"
            )
    if unknown := sorted(masks - images - ({_CLASS} if form.classes else set())):
        hint = ": a mask for each class is of config.data.mode='multilabel'" if unknown[0] == _CLASS else ""
        raise UserError(
            f"config.data.masks={form.masks!r} holds {{{unknown[0]}}}, which config.data.images={form.images!r} does "
            f"not tell{hint}"
        )


def paired(tree: Tree, form: Form, names: list[str] | None = None) -> Pairing:
    """The images and masks of a form of one split (see `Form.of_split`), paired by the fields that both have.

    Args:
      tree: the files of the set.
      form: without `{split}`.
      names: stems, where a list tells which images belong to the split.
    """
    free = {"split", *["stem"] * form.objects, *[_CLASS] * bool(form.classes)}
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
            without.append((path, _filled(form.masks, values)))
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
        of_class = matches(tree, form.masks.replace(f"{{{_CLASS}}}", name))
        found += [(path, {**values, _CLASS: name}) for path, values in of_class]
    return found


def _of_classes(
    found: list, names: list[str], classes: tuple[str, ...], doubles: list[tuple[str, str]]
) -> dict[tuple, tuple[str | None, ...]]:
    """The files of each key by class, where each class has its own."""
    if not classes:
        return {}
    by_key: dict[tuple, dict[str, str]] = {}
    for (*key, name), (path, _) in _by_key(found, [*names, _CLASS], doubles).items():
        by_key.setdefault(tuple(key), {})[name] = path
    return {key: tuple(files.get(name) for name in classes) for key, files in by_key.items()}


def _apart(form: Form, images: list, masks: list) -> tuple[list, list]:
    """Where both templates name a file, the one that says more about its name has it."""
    both = {path for path, _ in images} & {path for path, _ in masks}
    if not both:
        return images, masks
    of_images, of_masks = (len(_TOKEN.sub("", template)) for template in (form.images, form.masks))
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


def _filled(template: str, values: Mapping[str, str]) -> str:
    path = "/".join(_normal(template)).replace("**", values.get(_DIR, ""))
    path = re.sub(r"\{(\w+)\}", lambda token: values.get(token[1], token[0]), path).replace("//", "/").lstrip("/")
    return path[:-2] + FIRST_SUFFIXES[0] if path.endswith(".*") else path
