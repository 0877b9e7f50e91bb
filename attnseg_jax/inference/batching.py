"""Pictures read ahead and gathered into batches."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from attnseg_jax.errors import UserError
from attnseg_jax.inference import pictures
from attnseg_jax.inference.pictures import Picture

# Pixels of the pictures that are decoded and wait for their batch, at most, beyond the first.
_WINDOW = 1 << 25


def checked_batch_size(given: int | None, usual: int) -> int:
    """The batch size that is given, or the usual one."""
    if given is not None and given < 1:
        raise UserError(f"batch_size={given} must be at least 1")
    return usual if given is None else given


def read(
    images: Iterable[Picture], channels: int, on_error: Callable[[Picture, UserError], None] | None
) -> Iterator[tuple[Picture, np.ndarray]]:
    """Pictures with their pixels; files are decoded ahead by threads."""
    for picture, outcome in pictures.decoded(images, channels):
        if isinstance(outcome, UserError):
            if on_error is None:
                raise outcome
            on_error(picture, outcome)
        else:
            yield picture, outcome


def windows(items: Iterator[tuple[Picture, np.ndarray]], count: int) -> Iterator[list[tuple[Picture, np.ndarray]]]:
    """Runs of at most `count` items and of a bounded number of pixels."""
    window, size = [], 0
    for item in items:
        pixels = math.prod(item[1].shape[:2])
        if window and (len(window) == count or size + pixels > _WINDOW):
            yield window
            window, size = [], 0
        window.append(item)
        size += pixels
    if window:
        yield window


def filled(x: np.ndarray, rows: int) -> np.ndarray:
    """`x` with its first row once more for every row that is missing."""
    return x if len(x) == rows else np.concatenate([x, np.repeat(x[:1], rows - len(x), 0)])
