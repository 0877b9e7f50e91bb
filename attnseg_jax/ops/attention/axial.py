"""Attention along one axis with relative positions in queries, keys and values (Axial-DeepLab, arXiv:2003.07853).

Every function attends along the height of `[b, h, w, a, d]`; swap the axes for the width. Memory is `O(n h)`. A table
holds one vector for each offset from `-(size - 1)` to `size - 1`: a query's position minus its key's.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.resize import interpolation_matrix


def fit_offsets(table: Float[Array, "d o"], size: int) -> Float[Array, "d p"]:
    """The table `[d, 2 size - 1]` for an axis of `size` positions.

    A longer table is cropped to the offsets that occur. A shorter one holds no vectors for the farthest offsets: it is
    stretched linearly, so that offset 0 stays in the middle and its ends become the new ends.

    Raises:
      ValueError: a table of an even number of offsets.

    >>> table = jnp.arange(-1.0, 2.0)[None]
    >>> fit_offsets(table, 1).tolist(), fit_offsets(table, 3).tolist()
    ([[0.0]], [[-1.0, -0.5, 0.0, 0.5, 1.0]])
    """
    offsets, wanted = table.shape[1], 2 * size - 1
    if offsets % 2 == 0:
        raise ValueError(f"a table of {offsets} offsets has no offset 0")
    if wanted <= offsets:
        first = (offsets - wanted) // 2
        return table[:, first : first + wanted]
    matrix = interpolation_matrix(offsets, wanted, "bilinear", align_corners=True)
    return table @ jnp.asarray(matrix, table.dtype).T


def offset_grid(table: Float[Array, "d p"]) -> Float[Array, "d h h"]:
    """Offset `i - j` of a table `[d, 2 h - 1]` for each pair of positions `i` and `j`.

    >>> offset_grid(jnp.array([[-1.0, 0.0, 1.0]]))[0].tolist()
    [[0.0, -1.0], [1.0, 0.0]]
    """
    size = (table.shape[1] + 1) // 2
    positions = np.arange(size)
    return table[:, positions[:, None] - positions[None] + size - 1]


def axial_scores(
    q: Float[Array, "b h w a d"],
    k: Float[Array, "b h w a d"],
    to_query: Float[Array, "d h h"],
    to_key: Float[Array, "d h h"],
) -> Float[Array, "t b w a h h"]:
    """The three similarities of each query and key of a column, float32: `q . k`, `q . to_query`, `k . to_key`.

    Args:
      to_query: position vectors that queries are compared with, by query and key (`offset_grid`); shared by all heads.
      to_key: position vectors that keys are compared with, by key and query.

    >>> x, grid = jnp.ones((1, 2, 3, 1, 4)), jnp.ones((4, 2, 2))
    >>> axial_scores(x, x, grid, 2 * grid)[:, 0, 0, 0].tolist()
    [[[4.0, 4.0], [4.0, 4.0]], [[4.0, 4.0], [4.0, 4.0]], [[8.0, 8.0], [8.0, 8.0]]]
    """
    exact = {"preferred_element_type": jnp.float32}
    content = jnp.einsum("bhwad,bgwad->bwahg", q, k, **exact)
    by_query = jnp.einsum("bhwad,dhg->bwahg", q, to_query.astype(q.dtype), **exact)
    by_key = jnp.einsum("bgwad,dgh->bwahg", k, to_key.astype(k.dtype), **exact)
    return jnp.stack([content, by_query, by_key])


def axial_average(
    weights: Float[Array, "b w a h h"], v: Float[Array, "b h w a e"], to_value: Float[Array, "e h h"]
) -> tuple[Float[Array, "b h w a e"], Float[Array, "b h w a e"]]:
    """Weighted means over the keys of a column: of the values, and of their position vectors `to_value`, by query, key.

    The last axis of `weights` is the keys; results have the dtype of `v`.

    >>> weights, v = jnp.full((1, 1, 1, 2, 2), 0.5), jnp.array([1.0, 3.0]).reshape(1, 2, 1, 1, 1)
    >>> [y.ravel().tolist() for y in axial_average(weights, v, jnp.arange(4.0).reshape(1, 2, 2))]
    [[2.0, 2.0], [0.5, 2.5]]
    """
    exact = {"preferred_element_type": jnp.float32}
    weights = weights.astype(v.dtype)
    content = jnp.einsum("bwahg,bgwae->bhwae", weights, v, **exact)
    position = jnp.einsum("bwahg,ehg->bhwae", weights, to_value.astype(v.dtype), **exact)
    return content.astype(v.dtype), position.astype(v.dtype)


def axial_keys(size: tuple[int, int], *, width: bool = False) -> Int[Array, "n s"]:
    """Position `y * width + x` of the pixels in each pixel's column, or in its row where `width` is True.

    >>> axial_keys((2, 3))[4].tolist(), axial_keys((2, 3), width=True)[4].tolist()
    ([1, 4], [3, 4, 5])
    """
    h, w = size
    position = jnp.arange(h * w).reshape(h, w)
    lines = position[:, None] if width else position.T[None]
    length = w if width else h
    return jnp.broadcast_to(lines, (h, w, length)).reshape(h * w, length)
