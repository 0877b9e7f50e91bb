"""Attention of every pixel to its row and its column (CCNet, Huang et al. 2019, arXiv:1811.11721), one softmax.

Products are batched over the lines of the map, so that memory is `O(n (h + w))` and no keys or values are copied.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


def criss_cross_attention(
    q: Float[Array, "b h w d"], k: Float[Array, "b h w d"], v: Float[Array, "b h w e"], *, scale: float = 1.0
) -> Float[Array, "b h w e"]:
    """Mean of the values in a pixel's column and row, weighted by one softmax of `scale * q . k` over both.

    The pixel itself counts once. The result has the dtype of `v`; the softmax is in float32.

    Raises:
      ValueError: shapes that do not fit together.

    >>> zero = jnp.zeros((1, 2, 3, 4))
    >>> criss_cross_attention(zero, zero, jnp.arange(6.0).reshape(1, 2, 3, 1))[0, :, :, 0].tolist()
    [[1.5, 1.75, 2.0], [3.0, 3.25, 3.5]]
    """
    _check(q, k, v)
    column, row, total = _exponentials(q, k, scale)
    out = jnp.einsum("bwhg,bgwe->bhwe", column.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = out + jnp.einsum("bhwx,bhxe->bhwe", row.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (out / total).astype(v.dtype)


def criss_cross_weights(
    q: Float[Array, "b h w d"], k: Float[Array, "b h w d"], *, scale: float = 1.0
) -> Float[Array, "b h w s"]:
    """The weights of `criss_cross_attention`, float32: `h` for the column, then `w` for the row; they sum to 1.

    The pixel's own weight stands in the row; in the column it is 0.

    >>> zero = jnp.zeros((1, 2, 3, 4))
    >>> criss_cross_weights(zero, zero)[0, 1, 2].tolist()
    [0.25, 0.0, 0.25, 0.25, 0.25]
    """
    _check(q, k, None)
    column, row, total = _exponentials(q, k, scale)
    return jnp.concatenate([jnp.swapaxes(column, 1, 2), row], axis=-1) / total


def criss_cross_keys(size: tuple[int, int]) -> Int[Array, "n s"]:
    """Position `y * width + x` that each weight of a pixel belongs to; -1 for the pixel itself in its column.

    >>> criss_cross_keys((2, 3))[4].tolist()
    [1, -1, 3, 4, 5]
    """
    h, w = size
    y, x = jnp.arange(h)[:, None, None], jnp.arange(w)[None, :, None]
    g, u = jnp.arange(h)[None, None], jnp.arange(w)[None, None]
    column = jnp.where(g == y, -1, g * w + x)
    return jnp.concatenate([column, jnp.broadcast_to(y * w + u, (h, w, w))], axis=-1).reshape(h * w, h + w)


def _exponentials(q, k, scale):
    """Numerators of the column `[b, w, h, g]` and the row `[b, h, w, x]`, and their sum `[b, h, w, 1]`, float32."""
    column = jnp.einsum("bhwd,bgwd->bwhg", q, k, preferred_element_type=jnp.float32) * scale
    row = jnp.einsum("bhwd,bhxd->bhwx", q, k, preferred_element_type=jnp.float32) * scale
    itself = jnp.eye(q.shape[1], dtype=bool)[None, None]
    column = jnp.where(itself, -jnp.inf, column)
    # The shift cancels in the quotient, so it needs no gradient.
    shift = jnp.maximum(jnp.swapaxes(column.max(-1, keepdims=True), 1, 2), row.max(-1, keepdims=True))
    shift = lax.stop_gradient(shift)
    column, row = jnp.exp(column - jnp.swapaxes(shift, 1, 2)), jnp.exp(row - shift)
    return column, row, jnp.swapaxes(column.sum(-1, keepdims=True), 1, 2) + row.sum(-1, keepdims=True)


def _check(q, k, v):
    if q.ndim != 4 or q.shape != k.shape:
        raise ValueError(f"queries and keys [b, h, w, d] do not fit: {q.shape} and {k.shape}")
    if v is not None and (v.ndim != 4 or v.shape[:3] != k.shape[:3]):
        raise ValueError(f"keys [b, h, w, d] and values [b, h, w, e] do not fit: {k.shape} and {v.shape}")
