"""Attention with all scores `[b, a, n, m]` in memory at once: for small maps, and for the weights themselves."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from attnseg_jax.ops.attention.shapes import check_shapes


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
    check_shapes(q, k, None, bias, mask)
    exponentials, total = _exponentials(q, k, bias, mask, scale)
    return exponentials / total


def dense(q, k, v, bias=None, mask=None, scale=None):
    """`dot_product_attention` by two `einsum`."""
    exponentials, total = _exponentials(q, k, bias, mask, scale)
    # Dividing after the product touches n * e numbers instead of n * m.
    out = jnp.einsum("banm,bmae->bane", exponentials.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return jnp.swapaxes(out / total, 1, 2).astype(v.dtype)


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
