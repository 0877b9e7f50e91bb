"""Soft regions: what a map shows where a class is predicted (Yuan et al. 2020, arXiv:1909.11065)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def region_weights(logits: Float[Array, "b h w k"]) -> Float[Array, "b k n"]:
    """Weights float32 `[b, k, n]` of all positions in each class's region: a softmax over positions, not classes.

    >>> region_weights(jnp.zeros((1, 2, 2, 3)))[0].tolist()
    [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """
    b, h, w, k = logits.shape
    return jax.nn.softmax(jnp.swapaxes(logits.reshape(b, h * w, k), 1, 2).astype(jnp.float32), axis=-1)


def region_means(x: Float[Array, "b h w c"], weights: Float[Array, "b k n"]) -> Float[Array, "b k c"]:
    """Mean of the map in each region, in the dtype of `x`.

    >>> region_means(jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.array([[[0.5, 0.0, 0.0, 0.5]]])).tolist()
    [[[1.5]]]
    """
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    return jnp.einsum("bkn,bnc->bkc", weights.astype(x.dtype), x, preferred_element_type=jnp.float32).astype(x.dtype)
