"""Multi-scale deformable attention (Zhu et al. 2021, arXiv:2010.04159): a few chosen points instead of all positions.

A query names points on each of several maps and a weight for each; what it gets is the weighted sum of the maps'
bilinear values there. Time and memory are `O(n l p d)` and do not depend on the number of positions.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.platforms import target_platform
from attnseg_jax.ops.points import corners
from attnseg_jax.ops.symbolic import is_symbolic

Sizes = tuple[tuple[int, int], ...]

# Numbers gathered at once. On CPU they stay in the cache; elsewhere a loop of larger steps has less to launch.
_NUMBERS = {"cpu": 2**18}
_NUMBERS_ELSEWHERE = 2**25
_MIN_ROWS = 64


def deformable_attention(
    values: Float[Array, "b m a d"],
    locations: Float[Array, "b n a l p 2"],
    weights: Float[Array, "b n a l p"],
    sizes: Sizes,
    *,
    rows: int = 0,
) -> Float[Array, "b n a d"]:
    """For each query and head the sum over maps and points of a weight times the bilinear value at a location.

    Outside of a map it is 0, with which a point within half a pixel of the edge is mixed: as in PyTorch's `grid_sample`
    with `align_corners=False` and padding by zeros. Gradients of locations are those of the bilinear weights. Heads,
    and blocks of queries, follow one another, in the gradient too; the batch stays an axis of every step.

    Args:
      values: of the positions of all maps, row by row, map after map.
      locations: `(x, y)` in [0, 1] from the left and the top edge of each map; any number is allowed.
      weights: of the points; nothing is normalised here.
      sizes: height and width of each of the `l` maps.
      rows: queries of a block; 0 chooses.

    Returns:
      As `values`, computed in float32.

    >>> values = jnp.array([0.0, 1.0, 5.0]).reshape(1, 3, 1, 1)  # a map of 1x2 and one of 1x1
    >>> centres = jnp.full((1, 1, 1, 2, 1, 2), 0.5)
    >>> deformable_attention(values, centres, jnp.ones((1, 1, 1, 2, 1)), ((1, 2), (1, 1))).item()
    5.5
    """
    b, n, a, _, p, _ = locations.shape
    d = values.shape[-1]
    blocks = _blocks(b, n, p * d, rows)
    rows = n if blocks == 1 else -(-n // blocks)
    maps = _split(jnp.moveaxis(values.astype(jnp.float32), 2, 0), sizes)

    def cut(x: Array) -> Array:
        """`[b, n, a, ...]` as heads and blocks `[a, blocks, b, rows, ...]`, the last completed by zeros."""
        if blocks > 1:
            x = jnp.pad(x, [(0, 0), (0, blocks * rows - n), *[(0, 0)] * (x.ndim - 2)])
        x = x.astype(jnp.float32).reshape(b, blocks, rows, *x.shape[2:])
        return jnp.moveaxis(x, (3, 1), (0, 1))

    def head(arrays: tuple[list[Array], Array, Array]) -> Array:
        # Of a block only its arguments are kept: the values around all points would be larger than anything else.
        def block(arguments: tuple[Array, Array]) -> Array:
            return jax.checkpoint(_sum_points, prevent_cse=False, static_argnums=3)(arrays[0], *arguments, sizes)

        return lax.map(block, arrays[1:])

    out = lax.map(head, (maps, cut(locations), cut(weights)))
    out = jnp.moveaxis(out, (0, 1), (3, 1)).reshape(b, blocks * rows, a, d)
    return (out[:, :n] if blocks > 1 else out).astype(values.dtype)


def point_shares(
    locations: Float[Array, "b n a p 2"], weights: Float[Array, "b n a p"], size: tuple[int, int]
) -> Float[Array, "b a n m"]:
    """What `deformable_attention` gives to each of the `m` pixels of a single map of `size`.

    >>> point_shares(jnp.full((1, 1, 1, 1, 2), 0.5), jnp.ones((1, 1, 1, 1)), (1, 2)).ravel().tolist()
    [0.5, 0.5]
    """
    b, n, a, p, _ = locations.shape
    index, shares = zip(*corners(locations.reshape(b, n * a, p, 2), size))
    index = jnp.concatenate(index, axis=-1)
    shares = jnp.concatenate([share * weights.reshape(b, n * a, p) for share in shares], axis=-1)
    zeros = jnp.zeros(size[0] * size[1], jnp.float32)
    summed = jax.vmap(jax.vmap(lambda at, share: zeros.at[at].add(share)))(index, shares)
    return jnp.moveaxis(summed.reshape(b, n, a, -1), 1, 2)


def _blocks(b: int, n: int, numbers: int, rows: int) -> int:
    """Number of blocks of the queries, of which each takes so many gathered numbers at each of four pixels."""
    if is_symbolic(n):
        return 1
    at_once = _NUMBERS.get(target_platform(), _NUMBERS_ELSEWHERE)
    # Of a batch of any size, as exported programs have, one image is what counts.
    images = 1 if is_symbolic(b) else b
    rows = rows or max(_MIN_ROWS, at_once // (4 * images * numbers))
    return -(-n // rows)


def _split(values: Float[Array, "a b m d"], sizes: Sizes) -> list[Float[Array, "a b _m d"]]:
    maps, start = [], 0
    for h, w in sizes:
        maps.append(lax.slice_in_dim(values, start, start + h * w, axis=2))
        start = start + h * w
    return maps


def _sum_points(
    maps: list[Float[Array, "b _m d"]], locations: Float[Array, "b r l p 2"], weights: Float[Array, "b r l p"], sizes
) -> Float[Array, "b r d"]:
    """The sum over maps and points of one head and block."""
    total = 0.0
    for i, (values, size) in enumerate(zip(maps, sizes, strict=True)):
        index, shares = zip(*corners(locations[:, :, i], size))
        index = jnp.concatenate(index, axis=-1)
        shares = jnp.concatenate([share * weights[:, :, i] for share in shares], axis=-1)
        around = jax.vmap(lambda rows, at: rows.at[at].get(mode="promise_in_bounds"))(values, index)
        total = total + jnp.einsum("brs,brsd->brd", shares, around, precision=lax.Precision.HIGHEST)
    return total
