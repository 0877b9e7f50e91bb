"""The Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415), exact."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.linear_map import linear_map


@jax.custom_jvp
def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`x` times the normal distribution function of `x`, by the error function, as PyTorch has it.

    The backward pass computes the derivative anew from `x`, which is all that is kept for it. `jax.nn.gelu` takes the
    complement of the error function, whose two branches cost several times as much and keep several arrays.

    >>> gelu(jnp.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.158..., 0.0, 0.841...]
    """
    return x * _distribution(x)


@gelu.defjvp
def _tangent(primals, tangents):
    (x,), (tangent,) = primals, tangents
    return gelu(x), linear_map(_times_slope, _times_slope, x, tangent)


def _times_slope(x, tangent):
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return tangent * (_distribution(x) + x * density)


def _distribution(x):
    return 0.5 * (1 + lax.erf(x * math.sqrt(0.5)))
