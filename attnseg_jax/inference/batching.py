"""Pictures read ahead and gathered into batches."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from attnseg_jax.errors import UserError
from attnseg_jax.inference import pictures
from attnseg_jax.inference.pictures import Picture

# Bytes of the pictures that wait for their batch, as files and the model have them, and of what is predicted of them,
# at most; more where a single picture takes more.
_HELD = 1 << 29


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


def windows(
    items: Iterator[tuple[Picture, np.ndarray]], count: int, predicted: int
) -> Iterator[list[tuple[Picture, np.ndarray]]]:
    """Runs of at most `count` items and of a bounded memory; what is predicted takes `predicted` bytes a pixel."""
    window, size = [], 0
    for item in items:
        h, w, channels = item[1].shape
        needed = item[1].nbytes + h * w * (channels * np.dtype(np.float32).itemsize + predicted)
        if window and (len(window) == count or size + needed > _HELD):
            yield window
            window, size = [], 0
        window.append(item)
        size += needed
    if window:
        yield window


def filled(x: np.ndarray, rows: int) -> np.ndarray:
    """`x` with its first row once more for every row that is missing."""
    return x if len(x) == rows else np.concatenate([x, np.repeat(x[:1], rows - len(x), 0)])
