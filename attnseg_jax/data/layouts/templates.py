"""File names of a data set as templates: which images and masks there are.

`images/{split}/{stem}.*` names images below the folder of a set, `masks/{split}/{stem}_mask.png` their masks. A name in
braces stands for any text without a slash, the same in both; `**` for any number of folders, and is `{dir}` elsewhere;
`.*` at the end for the suffix of any picture; another `*` for any text. Without `{stem}` the last `*` is it.
"""

import re
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
_DIR = "dir"
CLASS = "class"
"""The field of the templates of masks that stands for the class, where each has a mask of its own."""


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


def literal(template: str) -> str:
    """A template without what stands for other text.

    >>> literal("img/{split}/*.tif")
    'img//.tif'
    """
    return _TOKEN.sub("", template)


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
    if unknown := sorted(masks - images - ({CLASS} if form.classes else set())):
        hint = ": a mask for each class is of config.data.mode='multilabel'" if unknown[0] == CLASS else ""
        raise UserError(
            f"config.data.masks={form.masks!r} holds {{{unknown[0]}}}, which config.data.images={form.images!r} does "
            f"not tell{hint}"
        )


def filled(template: str, values: Mapping[str, str]) -> str:
    """The path that a template is for some values of its fields."""
    path = "/".join(_normal(template)).replace("**", values.get(_DIR, ""))
    path = re.sub(r"\{(\w+)\}", lambda token: values.get(token[1], token[0]), path).replace("//", "/").lstrip("/")
    return path[:-2] + FIRST_SUFFIXES[0] if path.endswith(".*") else path
