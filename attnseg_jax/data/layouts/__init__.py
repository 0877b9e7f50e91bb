"""How data sets lie in folders: one table (`table`), for training and for the doctor."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attnseg_jax.data.annotations import SUFFIX, labels_of
from attnseg_jax.data.datasets import from_config
from attnseg_jax.data.layouts import lists, parquet, stacks
from attnseg_jax.data.layouts.band_files import of_first_band, with_bands
from attnseg_jax.data.layouts.coco import coco_pairs
from attnseg_jax.data.layouts.pairing import Pair, Pairing, paired
from attnseg_jax.data.layouts.split import check_split, held_out
from attnseg_jax.data.layouts.table import LAYOUTS, OF_TEMPLATES, OTHERS, SURE
from attnseg_jax.data.layouts.templates import CLASS, SUFFIXES, Form, check, fields, fixed_folder, matches, splits
from attnseg_jax.data.layouts.tree import Tree, left_out
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.files import expanded

__all__ = [
    "LAYOUTS",
    "SUFFIXES",
    "Form",
    "Layout",
    "Pair",
    "Pairing",
    "Tree",
    "chosen",
    "fixed_folder",
    "found",
    "held_out",
    "pairing_of",
]


@dataclass(frozen=True)
class Layout:
    """A layout of the table, or of the config's own templates and lists, in the form that a data set has it."""

    name: str
    form: Form

    @property
    def has_splits(self) -> bool:
        """Whether the files tell the split."""
        return self.form.has_splits

    def pairing(self, tree: Tree, split: str = "") -> Pairing:
        """Images and masks of a split; of all where the files do not tell it."""
        form = self.form.of_split(split)
        if not form.images:
            return lists.listed_pairs(tree, form.names, split)
        if form.coco:
            return coco_pairs(tree, form)
        if not form.names:
            return paired(tree, form)
        stems = [row.image for row in lists.read_list(tree, form.names)]
        return paired(tree, form, stems)

    def pairings(self, tree: Tree) -> dict[str, Pairing]:
        """Images and masks of every split that the files tell; of "" where they tell none."""
        return {split: self.pairing(tree, split) for split in self.splits(tree) or [""]}

    def splits(self, tree: Tree) -> list[str]:
        """The splits that the files tell, each with a pair; [] where they tell none."""
        if not self.has_splits:
            return lists.splits_of(tree, self.form.names) if not self.form.images else []
        if not self.form.images:
            return sorted({values["split"] for _, values in matches(tree, self.form.names)})
        return [name for name in splits(tree, self.form) if self.fits(tree, name)]

    def fits(self, tree: Tree, split: str = "", *, asked: bool = False) -> bool:
        """Whether there are files of a split, see `pairing`; an error of one only where this layout was `asked` for."""
        form = self.form.of_split(split)
        if not form.images:
            return lists.is_pairs(tree, form.names)
        if (form.names and not tree.has(form.names)) or (form.coco and not tree.has(form.masks)):
            return False
        folders = tree.is_folder(fixed_folder(form.images)) and tree.is_folder(fixed_folder(form.masks))
        try:
            pairs = folders and (self.form in SURE or self.pairing(tree, split).pairs)
            if pairs and form.masks.endswith(SUFFIX) and not (form.coco or asked):
                labels_of(tree.root / pairs[0].mask)
        except UserError:
            # Other tools have files of the same names.
            if form.masks.endswith(SUFFIX) and not asked:
                return False
            raise
        return bool(pairs)


def _candidates(config: Any) -> list[Layout]:
    """The layouts that a `config.data` leaves open.  Raises UserError for keys that do not go together."""
    names = ("auto", *LAYOUTS, *OTHERS)
    if config.layout not in names:
        raise UserError(f"config.data.layout={config.layout!r} is not a layout ({nearest(config.layout, names)})")
    if bool(config.images) != bool(config.masks):
        given, other = ("images", "masks") if config.images else ("masks", "images")
        raise UserError(f"config.data.{given} is given without config.data.{other}: give both")
    if config.images or config.layout in OF_TEMPLATES:
        if config.layout not in ("auto", *OF_TEMPLATES):
            raise UserError(
                f"config.data.images is of layout='templates', not {config.layout!r}: leave one of them out"
            )
        if not config.images:
            raise UserError(
                f"config.data.layout={config.layout!r} needs config.data.images and config.data.masks, such as "
                "'img/{split}/*.tif' and 'lab/{split}/{stem}_mask.png'"
            )
        if config.bands and config.layout == "stacks":
            raise UserError("config.data.bands is of images of several files, not of layout='stacks': leave one out")
        each = config.mode == "multilabel" and CLASS in fields(config.masks)
        classes = from_config(config).class_names if each else ()
        form = Form(of_first_band(config), config.masks, config.lists, classes=classes)
        check(form)
        return [Layout("stacks" if config.layout == "stacks" else "templates", form)]
    if config.lists and config.layout in ("auto", "lists"):
        return [Layout("lists", Form("", "", config.lists))]
    if config.layout == "lists":
        return [Layout("lists", Form("", "", place)) for place in lists.PLACES]
    wanted = LAYOUTS if config.layout == "auto" else (config.layout,)
    return [Layout(name, form) for name in wanted for form in LAYOUTS[name]]


def chosen(config: Any, split: str) -> tuple[Layout, Tree]:
    """The layout in which the folder of a `config.data` holds a split, and the files, unpacked where it holds others.

    Raises:
      UserError: there is no such folder, or nothing of the split in it.
    """
    layout, tree = _stored(config, split)
    if layout.name != "stacks":
        return layout, tree
    pairings, of_split = layout.pairings(tree), _stored_split(config, split) if layout.has_splits else ""
    pairings[of_split].check(tree.root, layout.form.of_split(of_split))
    return stacks_as_files(layout, tree, pairings, config.leave_out)


def stacks_as_files(
    layout: Layout, tree: Tree, pairings: dict[str, Pairing], leave_out: Sequence[str] = ()
) -> tuple[Layout, Tree]:
    """The pages of stacks, paired by split, as a layout of their own, and their files."""
    folder = stacks.unpacked(tree.root, layout.form, pairings)
    return Layout("stacks", stacks.form_of(layout.form)), Tree(folder, leave_out)


def _check_pages(root: Path, form: Form, pair: Pair) -> None:
    """Raises UserError for a pair whose pages are pictures, of which all but the first would be left out."""
    if stacks.is_stack(root, pair):
        raise UserError(
            f"{root / pair.image}: the file holds several pictures, and {pair.mask} their masks: each is read with "
            f"--config.data.layout=stacks --config.data.images='{form.images}' --config.data.masks='{form.masks}'"
        )


def _stored(config: Any, split: str) -> tuple[Layout, Tree]:
    """`chosen` as the files of the folder are."""
    if not config.dir:
        raise UserError("config.data.dir is empty: give the folder of the data, as in --config.data.dir=path/to/data")
    check_split(config.split)
    root, stored = expanded(config.dir), _stored_split(config, split)
    if config.layout == "parquet":
        return _of_parquet(config, root, stored)
    layouts = _candidates(config)
    tree = Tree(root, config.leave_out)
    unsplit = None
    for layout in layouts:
        if layout.has_splits or not layout.form.images:
            if layout.fits(tree, stored, asked=config.layout != "auto"):
                return layout, tree
        elif unsplit is None and layout.fits(tree):
            unsplit = layout
    if unsplit and config.split and split in (config.train_split, config.eval_split):
        return unsplit, tree
    if unsplit:
        raise UserError(
            f"config.data.dir={config.dir}: its images are not divided into splits, and there is no {split!r}; "
            "--config.data.split=\"('hash',0.2)\" holds a fifth out as the validation split"
        )
    if config.layout == "auto" and not config.images and not config.lists and parquet.shards(root):
        return _of_parquet(config, root, stored)
    what = "there is no such folder" if not tree.root.is_dir() else f"no split {stored!r} in it"
    expected = " or ".join(_expected(tree, layout.form.of_split(stored)) for layout in _shown(layouts))
    more = "" if config.layout != "auto" or config.images else f"; attnseg-doctor {config.dir} tells what is there"
    raise UserError(f"config.data.dir={config.dir}: {what}; expected {expected}{more}")


def _of_parquet(config: Any, root: Path, split: str) -> tuple[Layout, Tree]:
    folder = parquet.unpacked(root, [split], config.images, config.masks)
    return Layout("parquet", parquet.FORM), Tree(folder, config.leave_out)


def _shown(layouts: Sequence[Layout]) -> list[Layout]:
    return [layout for layout in layouts if layout.form in SURE] or list(layouts[:3])


def _expected(tree: Tree, form: Form) -> str:
    """Where a form has its files, in words."""
    if not form.images:
        return f"a list {tree.root / form.names}"
    where = [tree.root / fixed_folder(part) for part in (form.images, form.masks)]
    if where[0] == where[1] or "/" not in form.images:
        where = [tree.root / part for part in (form.images, form.masks)]
    return f"{where[0]} with {where[1]}"


def _stored_split(config: Any, split: str) -> str:
    """The split of the files that a split of the run is taken from."""
    return config.train_split if config.split and split == config.eval_split else split


def pairing_of(config: Any, split: str, layout: Layout, tree: Tree) -> Pairing:
    """The files of a split by a `config.data`: without those that it leaves out, on its side of `config.data.split`."""
    found = layout.pairing(tree, _stored_split(config, split))
    if found.pairs and config.mode != "multilabel":
        _check_pages(tree.root, layout.form, found.pairs[0])
    # A list may name what is left out, by its path or by its stem.
    stems = {os.path.splitext(os.path.basename(path))[0] for path in config.leave_out}
    missing = [name for name in found.missing if not (name in stems or left_out(name, config.leave_out))]
    # Masks of images that are left out have none.
    found = replace(found, missing=missing, without_image=[] if config.leave_out else found.without_image)
    if config.bands:
        images = config.images.replace("{split}", _stored_split(config, split))
        found = replace(found, pairs=with_bands(tree, images, config.bands, found.pairs))
    if not config.split or split not in (config.train_split, config.eval_split):
        return found
    held = held_out([pair.name for pair in found.pairs], config.split)
    pairs = [pair for pair in found.pairs if (pair.name in held) == (split == config.eval_split)]
    if found.pairs and not pairs:
        raise UserError(
            f"config.data.split={config.split}: nothing of the {len(found.pairs)} pairs is left for {split!r}: more "
            "pairs are needed, or groups that are smaller"
        )
    return replace(found, pairs=pairs)


def found(tree: Tree) -> tuple[Layout | None, int]:
    """The layout of the table that most of the pictures below a folder fit, and how many pairs it has."""
    layouts = [Layout(name, form) for name, forms in LAYOUTS.items() for form in forms]
    layouts += [Layout("lists", Form("", "", place)) for place in lists.PLACES]
    best, most = None, 0
    for layout in layouts:
        # A later layout has to explain more of the files.
        if (count := _count(tree, layout)) > most:
            best, most = layout, count
    return best, most


def _count(tree: Tree, layout: Layout) -> int:
    splits_ = layout.splits(tree) if layout.has_splits else [""]
    return sum(len(layout.pairing(tree, split).pairs) for split in splits_ if layout.fits(tree, split))
