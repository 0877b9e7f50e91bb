"""Bilinear interpolation between sizes that are known when the program runs, not when it is compiled."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

BAND = 32
"""Rows that `in_bands` reads at once."""


def resize_inside(
    x: Float[Array, "b h w c"], inside: Int[Array, "b 2"], full: Int[Array, "b 2"], size: tuple[int, int]
) -> Float[Array, "b i j c"]:
    """The part `inside` (h, w) at the start of each map, resized to `full`, at the start of a map of `size`.

    That part is what `resize` makes of it; what lies beyond `full` repeats the last pixel of `inside`. One program
    serves maps of all sizes.

    >>> x = jnp.array([0.0, 1.0, 9.0]).reshape(1, 1, 3, 1)
    >>> resize_inside(x, jnp.array([[1, 2]]), jnp.array([[1, 4]]), (1, 5)).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0, 1.0]
    """
    return resize_rows(x, inside, full, jnp.arange(size[0]), size[1])


def resize_rows(
    x: Float[Array, "b h w c"], inside: Int[Array, "b 2"], full: Int[Array, "b 2"], rows: Int[Array, " i"], width: int
) -> Float[Array, "b i {width} c"]:
    """The `rows` of what `resize_inside` gives for maps of that width: parts of maps that are too large as a whole."""

    def one(x, inside, full):
        x = _along(0, x, inside[0], full[0], rows)
        return _along(1, x, inside[1], full[1], jnp.arange(width))

    return jax.vmap(one)(x, inside, full)


def in_bands(
    read: Callable[..., tuple[PyTree, PyTree]],
    x: Float[Array, "b h w c"],
    inside: Int[Array, "b 2"],
    full: Int[Array, "b 2"],
    size: tuple[int, int],
    *others: Array,
) -> tuple[PyTree, PyTree]:
    """`read(resize_inside(x, ...), *others)`, whose first argument is never there as a whole.

    Of a photograph all logits at full size would take gigabytes.

    Args:
      read: takes rows of the resized maps and of `others`; returns sums, and maps `[b, rows, w, ...]`.
      x, inside, full, size: as in `resize_inside`; the height is a multiple of `BAND`.
      others: maps `[b, *size, ...]`.

    Returns:
      The sums over all rows, and the maps of all rows.
    """
    height, width = size
    if height % BAND:
        raise ValueError(f"needs a height that is a multiple of {BAND}, got {height}")

    def band(part: tuple[Array, ...]) -> tuple[PyTree, PyTree]:
        rows, *parts = part
        return read(resize_rows(x, inside, full, rows, width), *parts)

    cut = (jnp.moveaxis(y.reshape(len(y), -1, BAND, *y.shape[2:]), 1, 0) for y in others)
    sums, maps = jax.lax.map(band, (jnp.arange(height).reshape(-1, BAND), *cut))
    joined = jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1).reshape(y.shape[1], height, *y.shape[3:]), maps)
    return jax.tree.map(lambda y: y.sum(0, dtype=y.dtype), sums), joined


def _along(axis, x, n, full, places):
    """One axis: `places` of the first `n` positions resized to `full`."""
    # As fractions of whole numbers, so that nothing is lost; rows of padding have no size.
    n, below = jnp.maximum(n, 1), 2 * jnp.maximum(full, 1)
    above = jnp.clip((2 * places + 1) * n - below // 2, 0, below * (n - 1))
    base = above // below
    weight = ((above - base * below) / below).astype(x.dtype)
    return between(x, base, jnp.minimum(base + 1, n - 1), weight, axis=axis)


def between(
    x: Float[Array, "..."], first: Int[Array, " n"], second: Int[Array, " n"], share: Float[Array, " n"], *, axis: int
) -> Float[Array, "..."]:
    """What lies between two positions of an axis each, `share` of the way from the first to the second.

    >>> x, first = jnp.array([0.0, 2.0, 6.0]), jnp.array([0, 1])
    >>> between(x, first, first + 1, jnp.array([0.5, 0.25]), axis=0).tolist()
    [1.0, 3.0]
    """
    # A product with the matrix of a long axis would take a hundred times as long.
    share = share.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return jnp.take(x, first, axis, mode="clip") * (1 - share) + jnp.take(x, second, axis, mode="clip") * share
