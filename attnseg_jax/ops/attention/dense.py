"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) on `[b, n, a, d]`, softmax in float32.

Both public functions are a shape check followed by `_exponentials`; another way to compute the same attention
(in chunks, say) is another body for `dot_product_attention` behind the same check.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def dot_product_attention(
    q: Float[Array, "b n a d"],
    k: Float[Array, "b m a d"],
    v: Float[Array, "b m a e"],
    *,
    bias: Float[Array, "#b #a #n #m"] | None = None,
    mask: Bool[Array, "#b #a #n #m"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b n a e"]:
    """Mean of the values `v`, weighted by the softmax over keys `m` of `scale * q . k + bias`.

    Args:
      q: queries `[b, n, a, d]`.
      k: keys `[b, m, a, d]`.
      v: values `[b, m, a, e]`; their width may differ from the keys'.
      bias: added to the scores; `[b, a, n, m]`, or 1 in place of any of these.
      mask: True where a query may attend to a key; shaped like `bias`. A query that may attend to nothing gives zeros.
      scale: factor of the scores, by default `d ** -0.5`.

    Returns:
      `[b, n, a, e]` in the dtype of `v`; the softmax is in float32 whatever the inputs are.

    Raises:
      ValueError: shapes that do not fit together.

    >>> x = jnp.eye(3).reshape(1, 3, 1, 3)
    >>> dot_product_attention(x, x, x, scale=100.0).argmax(-1).ravel().tolist()
    [0, 1, 2]
    """
    _check(q, k, v, bias, mask)
    exponentials, total = _exponentials(q, k, bias, mask, scale)
    # Dividing after the product touches n * e numbers instead of n * m.
    out = jnp.einsum("banm,bmae->bane", exponentials.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return jnp.swapaxes(out / total, 1, 2).astype(v.dtype)


def attention_weights(
    q: Float[Array, "b n a d"],
    k: Float[Array, "b m a d"],
    *,
    bias: Float[Array, "#b #a #n #m"] | None = None,
    mask: Bool[Array, "#b #a #n #m"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b a n m"]:
    """The weights `dot_product_attention` gives to every key: `[b, a, n, m]` float32, arguments as there.

    Each row sums to 1, or to 0 where the mask admits no key.

    >>> q, k = jnp.zeros((1, 2, 1, 4)), jnp.zeros((1, 5, 1, 4))
    >>> attention_weights(q, k, mask=jnp.arange(5).reshape(1, 1, 1, 5) < 2)[0, 0, 0].tolist()
    [0.5, 0.5, 0.0, 0.0, 0.0]
    """
    _check(q, k, None, bias, mask)
    exponentials, total = _exponentials(q, k, bias, mask, scale)
    return exponentials / total


def _exponentials(q, k, bias, mask, scale):
    """Numerator `[b, a, n, m]` and denominator `[b, a, n, 1]` of the softmax, float32, heads outermost."""
    scores = jnp.einsum("bnad,bmad->banm", q, k, preferred_element_type=jnp.float32)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    # The shift cancels in the quotient, so it needs no gradient; a row of -inf keeps shift 0 and sums to 0.
    shift = lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    exponentials = jnp.exp(scores - jnp.where(jnp.isneginf(shift), 0.0, shift))
    total = exponentials.sum(axis=-1, keepdims=True)
    return exponentials, jnp.where(total == 0, 1.0, total)


def _check(q, k, v, bias, mask):
    if q.ndim != 4 or k.ndim != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(f"queries [b, n, a, d] and keys [b, m, a, d] do not fit: {q.shape} and {k.shape}")
    if v is not None and (v.ndim != 4 or v.shape[:3] != k.shape[:3]):
        raise ValueError(f"keys [b, m, a, d] and values [b, m, a, e] do not fit: {k.shape} and {v.shape}")
    full = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    for name, array in (("bias", bias), ("mask", mask)):
        if array is not None and (array.ndim != 4 or any(s not in (1, f) for s, f in zip(array.shape, full))):
            raise ValueError(f"{name} {array.shape} does not broadcast to [b, a, n, m] = {full} (use 4 axes)")
    if mask is not None and mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be boolean (True = may attend), not {mask.dtype}; additive masks go into bias")
