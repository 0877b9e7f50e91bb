"""Features of boxes: RoI pooling (Girshick 2015, arXiv:1504.08083), RoIAlign (He et al. 2017, arXiv:1703.06870).

Boxes are `x1, y1, x2, y2` in cells of the map. The arithmetic is that of torchvision's `ops.roi_pool` and
`ops.roi_align`. Boxes get no gradient.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from attnseg_jax.ops.pool import Pair, pair
from attnseg_jax.ops.separable import exact_product
from attnseg_jax.ops.varying import varying_together


def roi_align(
    x: Float[Array, "b h w c"],
    boxes: Float[Array, "b r 4"],
    size: Pair,
    *,
    sampling: int = 2,
    aligned: bool = True,
    inside: Float[Array, "b r h w"] | None = None,
) -> Float[Array, "b r i j c"]:
    """Means of the interpolated map over `size` bins of every box, in the dtype of `x`.

    Rows and columns are interpolated one after the other by products with a small matrix for each box, so that neither
    the values nor their gradient need a gather.

    Args:
      boxes: edges: under `aligned` cell i reaches from i to i + 1, otherwise it stands at i and a box is
        at least one cell long.
      size: bins: rows, columns.
      sampling: points in a bin along each axis; 0 takes as many as the bin has cells, for boxes no larger than the map.
        A point more than one cell outside of the map counts as 0.
      aligned: the form of Mask R-CNN's later code; False gives that of its first.
      inside: weights, at least 0, of all cells in the mean of each box; a bin without weight gives 0. With it the mean
        is one product of `[r i j, h w]` and `[h w, c]`.

    >>> x = jnp.arange(4.0).reshape(1, 1, 4, 1)
    >>> roi_align(x, jnp.array([[[1.0, 0.0, 3.0, 1.0]]]), (1, 2)).ravel().tolist()
    [1.0, 2.0]
    """
    dtype = x.dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
    boxes = lax.stop_gradient(boxes.astype(x.dtype))
    (i, j), (b, h, w, c), r = pair(size), x.shape, boxes.shape[1]
    rows = _weights(boxes[..., 1], boxes[..., 3], i, h, sampling, aligned)
    columns = _weights(boxes[..., 0], boxes[..., 2], j, w, sampling, aligned)
    if inside is not None:
        weights = (rows[:, :, :, None, :, None] * columns[:, :, None, :, None]) * inside[:, :, None, None]
        weights = weights.reshape(b, r * i * j, h * w)
        total = weights.sum(-1, keepdims=True)
        weights = lax.stop_gradient(weights / jnp.where(total > 0, total, 1.0))
        y = exact_product("bnm,bmc->bnc", weights, x.reshape(b, h * w, c)).reshape(b, r, i, j, c)
        return y.astype(dtype)
    y = exact_product("brih,bhwc->briwc", rows, x)
    if j < c:
        # Copying the matrix for each row of bins is cheaper than the transposition that the product would need.
        return exact_product("brijw,briwc->brijc", jnp.repeat(columns[:, :, None], i, axis=2), y).astype(dtype)
    return exact_product("brjw,briwc->brijc", columns, y).astype(dtype)


def roi_max_pool(
    x: Float[Array, "b h w c"],
    boxes: Float[Array, "b r 4"],
    size: Pair,
    *,
    inside: Bool[Array, "b r h w"] | None = None,
) -> Float[Array, "b r i j c"]:
    """Maximum of the map over `size` bins of every box; the first of equal cells takes the whole gradient.

    Args:
      boxes: first and last cells, rounded (half away from zero); no larger than the map by more than one.
      size: bins: rows, columns. They share cells where their number does not divide the box.
      inside: cells of each box that count. A bin without any gives 0.

    >>> x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    >>> roi_max_pool(x, jnp.array([[[1.0, 0.0, 3.0, 1.0]]]), (1, 2)).ravel().tolist()
    [6.0, 7.0]
    """
    x, boxes = varying_together(x, lax.stop_gradient(boxes))
    (i, j), (b, h, w, c), r = pair(size), x.shape, boxes.shape[1]
    top, bottom = (edge[..., None] for edge in _bins(boxes[..., 1], boxes[..., 3], i, h))
    left, right = (edge[:, :, None] for edge in _bins(boxes[..., 0], boxes[..., 2], j, w))
    cells = x.reshape(b, h * w, c)
    flags = None if inside is None else inside.reshape(b * r, h * w)

    # One cell of every bin at a time: gathers of whole rows of channels, with scatters of such in the gradient.
    def step(carry, offset):
        best, found = carry
        row, column = top + offset[0], left + offset[1]
        there = (row < bottom) & (column < right)
        cell = jnp.where(there, row * w + column, 0)
        if flags is not None:
            there &= _take(flags, cell.reshape(b * r, i * j)).reshape(there.shape)
        value = _take(cells, cell.reshape(b, r * i * j)).reshape(best.shape)
        return (jnp.where(there[..., None] & (value > best), value, best), found | there), None

    offsets = jnp.array([(p, q) for p in range(_longest(i, h)) for q in range(_longest(j, w))])
    nothing = jnp.full_like(x, -jnp.inf, shape=(b, r, i, j, c)), jnp.zeros_like(x, bool, (b, r, i, j))
    (best, found), _ = lax.scan(step, nothing, offsets)
    return jnp.where(found[..., None], best, 0)


def _weights(
    low: Float[Array, "b r"], high: Float[Array, "b r"], bins: int, n: int, sampling: int, aligned: bool
) -> Float[Array, "b r i n"]:
    """Share of each of `n` cells in the mean of each bin between `low` and `high`, along one axis."""
    if aligned:
        low, high = low - 0.5, high - 0.5
    length = high - low if aligned else jnp.maximum(high - low, 1.0)
    step = length / bins
    most = sampling or -(-n // bins)
    count = jnp.full_like(step, most) if sampling else jnp.clip(jnp.ceil(step), 0, most)
    divisor = jnp.maximum(count, 1.0)
    point = jnp.arange(most, dtype=low.dtype).reshape(1, 1, 1, most)
    place = jnp.arange(bins, dtype=low.dtype).reshape(1, 1, bins, 1) + (point + 0.5) / divisor[..., None, None]
    at = low[..., None, None] + place * step[..., None, None]
    counted = (at >= -1) & (at <= n) & (point < count[..., None, None])
    distance = jnp.abs(at.clip(0, n - 1)[..., None] - jnp.arange(n, dtype=low.dtype).reshape(1, 1, 1, 1, n))
    return jnp.where(counted[..., None], jnp.maximum(1.0 - distance, 0.0), 0.0).sum(3) / divisor[..., None, None]


def _bins(
    low: Float[Array, "b r"], high: Float[Array, "b r"], bins: int, n: int
) -> tuple[Int[Array, "b r i"], Int[Array, "b r i"]]:
    """First cell of each bin and the one after its last, along one axis of `n` cells."""
    first, last = (_round(edge)[..., None] for edge in (low, high))
    length = jnp.maximum(last - first + 1, 1)
    index = jnp.arange(bins).reshape(1, 1, bins)
    edges = first + index * length // bins, first - (-(index + 1) * length // bins)
    return edges[0].clip(0, n), edges[1].clip(0, n)


def _longest(bins: int, n: int) -> int:
    """Cells of the longest bin of a box of up to `n + 1` cells."""
    return min(-(-(n + 1) // bins) + (bins > 1), n)


def _round(x: Float[Array, "b r"]) -> Int[Array, "b r"]:
    return (jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)).astype(jnp.int32)


def _take(x, index):
    return jax.vmap(lambda x, index: x[index])(x, index)
