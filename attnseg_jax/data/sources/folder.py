"""A source of image and mask files in folders."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Integer

from attnseg_jax.data import datasets, decode
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.files import expanded

SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUTS = {"camvid": ("{split}", "{split}annot"), "images_masks": ("images/{split}", "masks/{split}")}
"""Folder layouts (`config.data.layout`): where the images and the masks of a split are."""


class FolderSource:
    """Images and masks of one split, paired by file name without suffix, in the order of those names.

    Raises UserError when made, for missing folders, an image without a mask and an empty split, and when read, for bad
    files.
    """

    def __init__(self, config: Any, split: str):
        images, masks = _folders(config, split)
        self.info = datasets.info(config)
        self._table = decode.id_table(datasets.from_config(config).ids)
        self._colors = datasets.raw_colours(config)
        self._pairs = _pair(images, masks)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._root = expanded(config.dir)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, mask = self._pairs[index]
        pixels, label = decode.decode_pair(image, mask, str(image), str(mask), self._table, self._colors)
        return {"image": pixels, "label": label, "id": image.stem}

    def files(self) -> dict[str, Path]:
        """The image and mask files by their names below the data set's folder."""
        return {str(path.relative_to(self._root)): path for pair in self._pairs for path in pair}

    def raw(self, index: int) -> Integer[np.ndarray, "h w"]:
        """The mask at `index` before the table of ids."""
        _, mask = self._pairs[index]
        return decode.decode_mask(mask, str(mask), self._colors)

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of the image at `index`; every evaluation asks for all of them."""
        if index not in self._sizes:
            image, _ = self._pairs[index]
            self._sizes[index] = decode.decode_size(image, str(image))
        return self._sizes[index]


def _folders(config: Any, split: str) -> tuple[Path, Path]:
    if not config.dir:
        raise UserError("config.data.dir is empty: give the folder of the data, as in --config.data.dir=path/to/data")
    root = expanded(config.dir)
    if config.layout not in ("auto", *LAYOUTS):
        known = ("auto", *LAYOUTS)
        raise UserError(f"config.data.layout={config.layout!r} is not a layout ({nearest(config.layout, known)})")
    names = tuple(LAYOUTS) if config.layout == "auto" else (config.layout,)
    expected = []
    for name in names:
        images, masks = (root / part.format(split=split) for part in LAYOUTS[name])
        if images.is_dir() and masks.is_dir():
            return images, masks
        expected.append(f"{images} with {masks}")
    what = "there is no such folder" if not root.is_dir() else f"no split {split!r} in it"
    raise UserError(f"config.data.dir={config.dir}: {what}; expected {' or '.join(expected)}")


def _files(folder: Path) -> Iterable[Path]:
    # Hidden files such as the `._x.png` of macOS archives are no images.
    found = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _files(folder):
        if path.stem in found:
            raise UserError(f"{path}: {found[path.stem].name} has the same name without suffix; remove one of the two")
        found[path.stem] = path
    return found


def _pair(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    by_stem, masks_by_stem = _by_stem(images), _by_stem(masks)
    if not by_stem:
        raise UserError(f"{images}: no images in this folder ({', '.join(s[1:] for s in SUFFIXES)} are read)")
    missing = [stem for stem in by_stem if stem not in masks_by_stem]
    if missing:
        others = f" (and {len(missing) - 1} more images)" if len(missing) > 1 else ""
        raise UserError(
            f"{by_stem[missing[0]]}: the image has no mask{others}; "
            f"put it at {masks / missing[0]}.png, or remove the image"
        )
    if without := sorted(masks_by_stem.keys() - by_stem.keys()):
        logging.warning(
            "%s: %d mask(s) without an image are left out, such as %s", masks, len(without), masks_by_stem[without[0]]
        )
    return [(path, masks_by_stem[stem]) for stem, path in sorted(by_stem.items())]
