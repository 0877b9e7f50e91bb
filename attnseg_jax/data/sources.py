"""Sources: random access to decoded (image, label) pairs, from folders or from TFDS."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int64

from attnseg_jax.data.datasets import DatasetInfo
from attnseg_jax.data.folder import FolderSource
from attnseg_jax.data.transforms import scale_image, scale_label, scaled_size
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.ops.labels import IGNORE_LABEL

_BAR_FROM = 500


class Source(Protocol):
    """Random access to a split.

    `source[i]` is `{'image': uint8 [h, w, 3], 'label': uint8 [h, w] (train ids, 255 ignored), 'id': str}`;
    `source.size(i)` is (h, w) without decoding pixels.  Both raise UserError for a bad file.
    """

    info: DatasetInfo

    def __len__(self) -> int:
        """The number of pairs."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The decoded pair at `index`."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of the image at `index`."""
        ...


def load_source(config: Any, split: str) -> Source:
    """The source a `config.data` describes for `split`; TFDS is imported only when `config.source` asks for it.

    Images and labels are resized by `config.resolution`.  Raises UserError, with the hint, for whatever is missing or
    does not fit.
    """
    source = _load(config, split)
    return source if config.resolution == 1 else ResizedSource(source, config.resolution)


def _load(config: Any, split: str) -> Source:
    if config.source == "folder":
        return FolderSource(config, split)
    if config.source == "tfds":
        from attnseg_jax.data.tfds_source import TfdsSource

        return TfdsSource(config, split)
    known = ("folder", "tfds")
    raise UserError(f"config.data.source={config.source!r} is not a kind of source ({nearest(config.source, known)})")


class ResizedSource:
    """The pairs of another source, images and labels resized by one factor."""

    def __init__(self, source: Source, factor: float):
        self.info = source.info
        self._source, self._factor = source, factor

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The resized pair at `index`."""
        sample = self._source[index]
        image, label = scale_image(sample["image"], self._factor), scale_label(sample["label"], self._factor)
        return {**sample, "image": image, "label": label}

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of the resized image at `index`."""
        return scaled_size(self._source.size(index), self._factor)


@dataclass(frozen=True)
class Survey:
    """What a full pass over a split found.

    pixel_counts [k]: pixels of each class.  image_pixel_counts [k]: labelled pixels of all images in which the class
    occurs (median frequency balancing divides by them, Eigen and Fergus, arXiv 1411.4734).  sizes: (h, w) per image.
    """

    pixel_counts: Int64[np.ndarray, "k"]
    image_pixel_counts: Int64[np.ndarray, "k"]
    sizes: tuple[tuple[int, int], ...]


def survey(source: Source, threads: int | None = None) -> Survey:
    """Decode every pair of `source` and count its classes, in threads (one per core by default).

    Raises the UserError of the first bad file in the order of the source, and one if no pixel has a label.
    """
    k = source.info.num_classes

    def count(index: int) -> tuple[np.ndarray, tuple[int, int]]:
        label = source[index]["label"]
        return np.bincount(label.ravel(), minlength=IGNORE_LABEL + 1)[:k], label.shape

    counts, sizes = [], []
    executor = ThreadPoolExecutor(threads or os.cpu_count(), thread_name_prefix="survey")
    try:
        # map yields in order, so the error that surfaces is the one of the lowest index whatever the timing.
        for classes, size in _progress(executor.map(count, range(len(source))), len(source)):
            counts.append(classes)
            sizes.append(size)
    finally:
        executor.shutdown(cancel_futures=True)
    per_image = np.array(counts, np.int64).reshape(-1, k)
    if not per_image.any():
        raise UserError(
            f"data set {source.info.name!r}: not one pixel of its {len(source)} masks has a class, all are ignored "
            f"({IGNORE_LABEL}); check config.data.ids"
        )
    return Survey(per_image.sum(0), ((per_image > 0) * per_image.sum(1, keepdims=True)).sum(0), tuple(sizes))


def _progress(items: Iterator, total: int) -> Iterator:
    if total <= _BAR_FROM or not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc="checking the data", unit="image", leave=False)
