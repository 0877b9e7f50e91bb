"""Cutting a map into interlaced or contiguous groups of positions and back (Huang et al. 2019, arXiv:1907.12273)."""

import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from attnseg_jax.ops.pool import Pair, pair

REACHES = ("far", "near")


def pad_to_multiple(x: Shaped[Array, "b h w c"], factors: Pair, value: float = 0) -> Shaped[Array, "b y x c"]:
    """`x` with its height and width padded to multiples of `factors`, the smaller half of the padding first.

    >>> pad_to_multiple(jnp.ones((1, 3, 4, 1), int), (2, 3))[0, :, :, 0].tolist()
    [[0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]
    """
    # In this form it is known of symbols, too, that the factor divides the sum.
    extra = [(n + f - 1) // f * f - n for n, f in zip(x.shape[1:3], pair(factors))]
    return jnp.pad(x, ((0, 0), *((e // 2, e - e // 2) for e in extra), (0, 0)), constant_values=value)


def crop_to_size(x: Shaped[Array, "b y x c"], size: tuple[int, int]) -> Shaped[Array, "b h w c"]:
    """Undoes `pad_to_multiple`: the map of `size`, height and width, without the padding.

    >>> crop_to_size(jnp.arange(4).reshape(1, 1, 4, 1), (1, 1)).ravel().tolist()
    [1]
    """
    top, left = ((n - s) // 2 for n, s in zip(x.shape[1:3], size))
    return x[:, top : top + size[0], left : left + size[1]]


def split(x: Shaped[Array, "b y x c"], factors: Pair, reach: str) -> Shaped[Array, "g i j c"]:
    """Groups of a map's positions, along the batch axis.

    Args:
      x: `[b, i * dy, j * dx, c]`.
      factors: rows and columns `(dy, dx)`.
      reach: 'far' groups positions whose row and column agree modulo `factors`: `dy * dx` groups of `i * j` positions
        spread over the whole map. 'near' groups blocks of `factors` positions: `i * j` groups of `dy * dx`.

    Raises:
      ValueError: a map that is no multiple of the factors, or an unknown reach.

    >>> x = jnp.arange(8).reshape(1, 2, 4, 1)
    >>> split(x, (1, 2), "far")[..., 0].tolist()
    [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    >>> split(x, (1, 2), "near")[..., 0].tolist()
    [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]
    """
    b, height, width, c = x.shape
    i, j, dy, dx = _counts((height, width), factors, reach)
    x = x.reshape(b, i, dy, j, dx, c)
    if reach == "far":
        return x.transpose(0, 2, 4, 1, 3, 5).reshape(b * dy * dx, i, j, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b * i * j, dy, dx, c)


def join(
    groups: Shaped[Array, "g i j c"], size: tuple[int, int], factors: Pair, reach: str
) -> Shaped[Array, "b y x c"]:
    """The map of `size` that `split` cuts into `groups`, arguments as there.

    >>> x = jnp.arange(16).reshape(2, 2, 4, 1)
    >>> bool((join(split(x, (1, 2), "far"), (2, 4), (1, 2), "far") == x).all())
    True
    """
    i, j, dy, dx = _counts(size, factors, reach)
    c = groups.shape[-1]
    if reach == "far":
        x = groups.reshape(-1, dy, dx, i, j, c).transpose(0, 3, 1, 4, 2, 5)
    else:
        x = groups.reshape(-1, i, j, dy, dx, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, *size, c)


def member_positions(size: tuple[int, int], factors: Pair, reach: str) -> Int[Array, "n s"]:
    """The positions in the group of each position of a map of `size`, row by row; -1 stands for padding.

    >>> member_positions((1, 3), (1, 2), "near").tolist()
    [[0, 1], [0, 1], [2, -1]]
    """
    positions = pad_to_multiple(jnp.arange(size[0] * size[1]).reshape(1, *size, 1), factors, -1)
    groups = split(positions, factors, reach)
    g, i, j, _ = groups.shape
    rows = jnp.broadcast_to(groups.reshape(g, 1, 1, i * j), (g, i, j, i * j))
    rows = join(rows, positions.shape[1:3], factors, reach)
    return crop_to_size(rows, size).reshape(size[0] * size[1], i * j)


def _counts(size, factors, reach):
    (height, width), (dy, dx) = size, pair(factors)
    if height % dy or width % dx:
        raise ValueError(f"a map of {height}x{width} positions is no multiple of {dy}x{dx}: pad it first")
    if reach not in REACHES:
        raise ValueError(f"unknown reach {reach!r}, known: {', '.join(REACHES)}")
    return height // dy, width // dx, dy, dx
