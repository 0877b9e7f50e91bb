"""Cutting a map into windows and joining them again, with the shifts of Swin (Liu et al. 2021, arXiv:2103.14030).

A map is padded with zeros at the bottom and right until windows fill it, then rolled by the shift. The last windows of
a shifted map therefore hold pixels from both ends of an axis; `window_mask` keeps the two from attending to each other.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from attnseg_jax.ops.pool import Pair, pair
from attnseg_jax.ops.symbolic import numpy_of


def partition(x: Shaped[Array, "b h w c"], window: Pair, shift: Pair = 0) -> Shaped[Array, "b g s c"]:
    """The `g` windows of `s = height * width` pixels of a map, padded with zeros and rolled up and left by `shift`.

    >>> partition(jnp.arange(1, 7).reshape(1, 2, 3, 1), 2)[0, :, :, 0].tolist()
    [[1, 2, 4, 5], [3, 0, 6, 0]]
    """
    b, h, w, c = x.shape
    (wh, ww), (sh, sw) = pair(window), pair(shift)
    rows, columns = _count(h, wh), _count(w, ww)
    x = jnp.pad(x, [(0, 0), (0, rows * wh - h), (0, columns * ww - w), (0, 0)])
    x = jnp.roll(x, (-sh, -sw), axis=(1, 2)) if sh or sw else x
    x = x.reshape(b, rows, wh, columns, ww, c).swapaxes(2, 3)
    return x.reshape(b, rows * columns, wh * ww, c)


def merge(
    windows: Shaped[Array, "b g s c"], size: tuple[int, int], window: Pair, shift: Pair = 0
) -> Shaped[Array, "b h w c"]:
    """The map of `size` that `partition` cut into `windows`, without the padding.

    >>> x = jnp.arange(15).reshape(1, 3, 5, 1)
    >>> bool((merge(partition(x, (2, 3), (1, 2)), (3, 5), (2, 3), (1, 2)) == x).all())
    True
    """
    (h, w), (wh, ww), (sh, sw) = size, pair(window), pair(shift)
    rows, columns = _count(h, wh), _count(w, ww)
    b, _, _, c = windows.shape
    x = windows.reshape(b, rows, columns, wh, ww, c).swapaxes(2, 3).reshape(b, rows * wh, columns * ww, c)
    x = jnp.roll(x, (sh, sw), axis=(1, 2)) if sh or sw else x
    return x[:, :h, :w]


def usable_shift(size: tuple[int, int], window: Pair, shift: Pair) -> tuple[int, int]:
    """`shift`, but 0 along an axis that fits into one window, which has no other window to connect with.

    >>> usable_shift((5, 17), 7, 3)
    (0, 3)
    """
    height, width = (0 if w >= n else s for n, w, s in zip(size, pair(window), pair(shift)))
    return height, width


def window_mask(size: tuple[int, int], window: Pair, shift: Pair) -> Bool[Array, "g s s"]:
    """Whether two pixels of a window were neighbours before the roll, so that they may attend to each other.

    >>> window_mask((1, 6), (1, 3), (0, 1)).astype(int).tolist()
    [[[1, 1, 1], [1, 1, 1], [1, 1, 1]], [[1, 1, 0], [1, 1, 0], [0, 0, 1]]]
    """
    (wh, ww), shifts = pair(window), pair(shift)
    padded = [_count(n, w) * w for n, w in zip(size, (wh, ww))]
    xp = numpy_of(*size)
    rows, columns = (xp.arange(n) >= n - s for n, s in zip(padded, shifts))
    side = jnp.asarray(2 * rows[:, None] + columns[None])
    windows = partition(side[None, :, :, None], window)[0, :, :, 0]
    return windows[:, :, None] == windows[:, None]


def relative_index(window: Pair) -> Int[np.ndarray, "s s"]:
    """For each query and key of a window the row of their offset, query minus key, in a table of all offsets.

    The table has `(2 height - 1) * (2 width - 1)` rows.

    >>> relative_index((1, 3)).tolist()
    [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
    """
    wh, ww = pair(window)
    y, x = (t.ravel() for t in np.indices((wh, ww)))
    return (y[:, None] - y[None] + wh - 1) * (2 * ww - 1) + x[:, None] - x[None] + ww - 1


def window_keys(size: tuple[int, int], window: Pair, shift: Pair = 0) -> Int[Array, "n s"]:
    """Position `y * width + x` of the pixels in each pixel's window, -1 in the padding.

    >>> window_keys((1, 3), (1, 2)).tolist()
    [[0, 1], [0, 1], [2, -1]]
    """
    h, w = size
    inside = partition(1 + jnp.arange(h * w).reshape(1, h, w, 1), window, shift)[:, :, :, 0] - 1
    pairs = jnp.broadcast_to(inside[:, :, None], (*inside.shape, inside.shape[-1]))
    return merge(pairs, size, window, shift).reshape(h * w, -1)


def _count(n, window):
    return (n + window - 1) // window
