"""A source of image and mask files in folders."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Integer

from attnseg_jax.data import annotations, bands, class_masks, datasets, decode, layouts, limits, mask_ids, windows
from attnseg_jax.errors import UserError


class FolderSource:
    """Images and masks of one split, paired as their layout says (`layouts.LAYOUTS`), in the order of their names.

    Raises UserError when made, for missing folders, an image without a mask and an empty split, and when read, for bad
    files.
    """

    def __init__(self, config: Any, split: str):
        layout, tree = layouts.chosen(config, split)
        self.info = datasets.info(config)
        self._nearest = decode.takes_nearest(config.mask_values)
        self._resized = decode.takes_resized(config.mask_sizes)
        self._table = mask_ids.id_table(datasets.from_config(config).ids, nearest=self._nearest)
        self._colors = datasets.raw_colours(config)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._root = tree.root
        form = layout.form.of_split(split)
        pairs = layouts.pairing_of(config, split, layout, tree).check(self._root, form)
        self._missing = config.missing
        if self.info.multilabel:
            _check_class_files(self._root, form, pairs, config.missing)
        self._pairs = [
            ([self._root / image for image in pair.images], [mask and self._root / mask for mask in pair.masks])
            for pair in pairs
        ]
        self._channels = config.channels
        self._labels = config.labels or self.info.class_names
        self._unread: dict[int, tuple[windows.FileArray, windows.FileArray | None] | None] = {}
        self._max_pixels, self._small = config.max_pixels, set()
        limits.allow(config.max_pixels)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        images, masks = self._pairs[index]
        if index not in self._small:
            for path in filter(None, images if self._is_drawn(masks) else (*images, *masks)):
                limits.check_pixels(path, str(path), self._max_pixels)
            self._small.add(index)
        image = functools.partial(bands.decode_bands, images, self._channels) if self._channels else images[0]
        is_read = self.info.multilabel or self._is_drawn(masks)
        mask = functools.partial(self.raw, index) if is_read else masks
        name = str(next(filter(None, masks)))
        pixels, label = decode.decode_pair(
            image, mask, str(images[0]), name, self._table, self._colors,
            nearest=self._nearest, resized=self._resized,
        )  # fmt: skip
        # `size` would decode a PNG for its orientation.
        self._sizes[index] = label.shape[:2]
        if self.info.multilabel:
            label = class_masks.filled(label, masks, self._missing)
        return {"image": pixels, "label": label, "id": images[0].stem}

    def by_window(self, index: int) -> dict[str, Any]:
        """The pair at `index`; where it is very large and its files allow it, of arrays that are not read yet.

        A mask whose file does not is read whole, and all of those of classes that may overlap.
        """
        images, masks = self._pairs[index]
        if self.info.multilabel:
            return self[index]
        if index not in self._unread:
            image = windows.image_in(images, self._channels)
            alone = image is not None and len(masks) == 1 and not self._is_drawn(masks)
            mask = windows.mask_in(masks[0], self._colors, nearest=self._nearest) if alone else None
            self._unread[index] = image and (image, mask)
        if self._unread[index] is None:
            return self[index]
        image, mask = self._unread[index]
        self._sizes[index], name = image.shape[:2], str(masks[0])
        if mask is None:
            limits.check_pixels(masks[0], name, self._max_pixels)
            mask = self.raw(index)
        if mask.shape != image.shape[:2]:
            raise decode.sizes_differ(image, mask, str(images[0]), name)
        to_ids = functools.partial(mask_ids.to_train_ids, table=self._table, name=name)
        label = to_ids(mask) if isinstance(mask, np.ndarray) else mask.mapped(to_ids, np.uint8)
        return {"image": image, "label": label, "id": images[0].stem}

    def files(self) -> dict[str, Path]:
        """The image and mask files by their names below the data set's folder."""
        return {os.path.relpath(path, self._root): path for path in self._paths()}

    def _paths(self) -> Iterator[Path]:
        for images, masks in self._pairs:
            yield from filter(None, (*images, *masks))

    def raw(self, index: int) -> Integer[np.ndarray, "h w *k"]:
        """The mask at `index` before the table of ids."""
        images, masks = self._pairs[index]
        if self.info.multilabel:
            return class_masks.read_class_masks(masks, self.info.num_classes, nearest=self._nearest)
        if self._is_drawn(masks):
            return annotations.draw(masks[0], images[0], self._labels)
        return decode.decode_masks(masks, str(masks[0]), self._colors, nearest=self._nearest)

    def _is_drawn(self, masks: Sequence[Path | None]) -> bool:
        """Whether the mask is drawn from a file of annotations; classes that may overlap have pictures alone."""
        return not self.info.multilabel and masks[0].suffix.lower() == annotations.SUFFIX

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of the image at `index`; every evaluation asks for all of them."""
        if index not in self._sizes:
            (image, *_), _ = self._pairs[index]
            limits.check_pixels(image, str(image), self._max_pixels)
            self._sizes[index] = bands.bands_size(image) if self._channels else decode.decode_size(image, str(image))
        return self._sizes[index]


def _check_class_files(root: Path, form: layouts.Form, pairs: Sequence[layouts.Pair], missing: str) -> None:
    """Refuses masks that are not of each class by itself, and, unless told otherwise, classes without a file."""
    if not form.classes:
        if odd := next((pair for pair in pairs if pair.more or pair.mask.endswith(annotations.SUFFIX)), None):
            raise UserError(
                f"{root / odd.mask}: such masks have one class at a pixel, and config.data.mode='multilabel' needs one "
                "for each class: a file ({class} in config.data.masks) or a band"
            )
        return
    lacking = [(pair.image, name) for pair in pairs for name, path in zip(form.classes, pair.masks) if path is None]
    if not lacking:
        return
    image, name = lacking[0]
    more = f" (and {len(lacking) - 1} more masks)" if len(lacking) > 1 else ""
    if missing == "error":
        raise UserError(
            f"{root / image}: there is no mask of the class {name!r}{more}; restore it, or take the class for absent "
            "there by config.data.missing='absent', for not known by 'ignored'"
        )
    logging.warning("%s: no mask of %r%s: taken as %s", root / image, name, more, missing)
