"""The encoding layer: residuals of tokens to a few codewords (Zhang et al. 2017, arXiv:1612.02844), in float32."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def encode(
    x: Float[Array, "b n c"], codewords: Float[Array, "k c"], scale: Float[Array, " k"]
) -> tuple[Float[Array, "b k c"], Float[Array, "b n k"]]:
    """Residuals to every codeword, summed over the tokens under soft assignments, O(n k c).

    The assignments are the softmax over `k` of `scale_k * |x_i - c_k|^2` (the paper's `s_k` is `-scale_k`), the
    result is `sum over i of weight_ik * (x_i - c_k)`: it grows with the number of tokens.

    Args:
      x: tokens.
      codewords: k of them.
      scale: negative values assign tokens to near codewords.

    Returns:
      The sums `[b, k, c]` and the assignments `[b, n, k]`, whose rows sum to 1; float32.

    >>> y, weights = encode(jnp.array([[[0.0], [4.0]]]), jnp.array([[1.0], [5.0]]), jnp.array([-9.0, -9.0]))
    >>> y.ravel().tolist(), weights.round(2).tolist()
    ([-1.0, -1.0], [[[1.0, 0.0], [0.0, 1.0]]])
    """
    x, codewords = x.astype(jnp.float32), codewords.astype(jnp.float32)
    # Far codewords cancel in the expanded square, and in the sum of the residuals, unless the products are exact.
    products = jnp.einsum("bnc,kc->bnk", x, codewords, precision=lax.Precision.HIGHEST)
    lengths = jnp.square(codewords).sum(axis=-1).reshape(1, 1, -1)
    distances = jnp.square(x).sum(axis=-1, keepdims=True) - 2 * products + lengths
    weights = jax.nn.softmax(scale.astype(jnp.float32).reshape(1, 1, -1) * distances, axis=-1)
    sums = jnp.einsum("bnk,bnc->bkc", weights, x, precision=lax.Precision.HIGHEST)
    return sums - weights.sum(axis=1)[:, :, None] * codewords[None], weights
