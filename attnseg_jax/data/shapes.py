"""Areas that annotation files describe, as pixels: polygons, run lengths.

A pixel belongs to an area if its centre does: of a polygon with corners at whole numbers, those are its area.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from attnseg_jax.errors import UserError


def polygon(points: Float[np.ndarray, "n 2"], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The pixels inside a closed polygon of corners (x, y), by the even-odd rule, of an image of `size` (h, w).

    >>> polygon(np.array([[1, 0], [3, 0], [3, 2], [1, 2]]), (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    h, w = size
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, 0).T
    rows = np.arange(h)[:, None] + 0.5
    # Edges that a row crosses, and where.
    row, edge = np.nonzero((y0 <= rows) != (y1 <= rows))
    along = (row + 0.5 - y0[edge]) / (y1 - y0)[edge]
    column = np.ceil(x0[edge] + along * (x1 - x0)[edge] - 0.5).clip(0, w).astype(int)
    crossed = np.zeros((h, w + 1), np.int32)
    np.add.at(crossed, (row, column), 1)
    return np.cumsum(crossed, 1)[:, :w] % 2 == 1


def run_lengths(counts: str | bytes | Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The pixels of COCO's run lengths: of 0 and 1 in turn, down the columns; as numbers or as its text of them.

    >>> run_lengths([1, 2, 3], (2, 3)).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    >>> bool((run_lengths("123", (2, 3)) == run_lengths([1, 2, 3], (2, 3))).all())
    True
    """
    runs = _numbers(counts) if isinstance(counts, str | bytes) else [*counts]
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs) if min(runs, default=0) >= 0 else np.zeros(0, bool)
    if values.size != size[0] * size[1]:
        raise UserError(f"run lengths are of {values.size} pixels, and the image has {size[0] * size[1]}")
    return values.reshape(size[::-1]).T


def _numbers(text: str | bytes) -> list[int]:
    """COCO's text of run lengths: five bits a character from the lowest on, from the third number on differences."""
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text.encode() if isinstance(text, str) else text:
        letter -= 48
        value |= (letter & 31) << shift
        shift += 5
        if not letter & 32:
            # The highest bit of the last character is the sign.
            value -= (letter & 16) << (shift - 4)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs
