"""Class counts and image sizes of a whole split, found by reading every pair of it."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from attnseg_jax.data.sources.protocol import Source, check_sample
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL

_BAR_FROM = 500


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
    """Read every pair of `source` and count its classes, in threads (one per core by default).

    Raises the UserError of the first bad file in the order of the source, and one if no pixel has a label.
    """
    k = source.info.num_classes

    def count(index: int) -> tuple[np.ndarray, tuple[int, int]]:
        sample = source[index]
        check_sample(sample)
        label = sample["label"]
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
