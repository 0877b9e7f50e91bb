"""Attention between the channels of a map (Fu et al. 2019, arXiv:1809.02983)."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def channel_weights(x: Float[Array, "b h w c"]) -> Float[Array, "b c d"]:
    """Weights float32 `[b, c, d]` that every channel `c` gives to all channels `d`: the softmax of `-x_c . x_d`.

    The least similar channels weigh the most, as in github.com/junfu1115/DANet, which subtracts the products from
    their row's maximum. They grow with the number of positions, so the softmax is nearly one-hot and rounded products
    would change it: they are taken in full float32 precision on every device.

    >>> channel_weights(jnp.array([[3.0, 0.0], [0.0, 3.0]])[None, None]).round(2)[0].tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    energy = jnp.einsum("bnc,bnd->bcd", x, x, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    return jax.nn.softmax(-energy, axis=-1)


def channel_attention(x: Float[Array, "b h w c"], weights: Float[Array, "b c d"]) -> Float[Array, "b h w c"]:
    """Every channel's mean of all channels, weighted by `weights`; in the dtype of `x`.

    >>> channel_attention(jnp.array([1.0, 2.0]).reshape(1, 1, 1, 2), jnp.array([[[0.5, 0.5], [1.0, 0.0]]])).tolist()
    [[[[1.5, 1.0]]]]
    """
    y = jnp.einsum("bcd,bhwd->bhwc", weights.astype(x.dtype), x, preferred_element_type=jnp.float32)
    return y.astype(x.dtype)
