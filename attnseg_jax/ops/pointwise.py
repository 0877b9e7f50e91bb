"""Products of every pixel, or row, with one matrix: convolution with kernels of one pixel, dense layers.

Of pixels it is a matrix product on every platform but GPUs. There XLA compiles dozens of kernels for each product to
choose from, and up to jax 0.11 it aborts where the pixels of a product are a strided slice.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.linear_map import bilinear
from attnseg_jax.ops.platforms import unless_on_gpus


def pointwise(x: Float[Array, "b h w c"], kernel: Float[Array, "c o"]) -> Float[Array, "b h w o"]:
    """The product of every pixel of `x` with `kernel`.

    >>> pointwise(jnp.ones((1, 1, 2, 3)), jnp.ones((3, 1))).ravel().tolist()
    [3.0, 3.0]
    """
    return _bilinear(x, kernel)


def linear(x: Float[Array, "*n c"], kernel: Float[Array, "c o"]) -> Float[Array, "*n o"]:
    """The product of every row of `x` with `kernel`, on every platform.

    >>> linear(jnp.ones((2, 3)), jnp.ones((3, 1))).ravel().tolist()
    [3.0, 3.0]
    """
    return _linear(x, kernel)


def _product_on_gpus(x, kernel):
    return lax.conv_general_dilated(x, kernel[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _input_gradient_on_gpus(kernel, g):
    return _product_on_gpus(g, kernel.T)


def _kernel_gradient_on_gpus(x, g):
    kernel = jnp.zeros_like(g, shape=(x.shape[-1], g.shape[-1]))
    return jax.linear_transpose(lambda kernel: _product_on_gpus(x, kernel), kernel)(g)[0]


def _product(x, kernel):
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _input_gradient(kernel, g):
    return lax.dot_general(g, kernel, (((g.ndim - 1,), (1,)), ((), ())))


def _kernel_gradient(x, g):
    x, g = (array.reshape(-1, array.shape[-1]) for array in (x, g))
    rows = (((0,), (0,)), ((), ()))
    # XLA writes the first operand out transposed, with all that it was computed from; let it be the narrower one.
    if x.shape[-1] < g.shape[-1]:
        return lax.dot_general(x, g, rows)
    return lax.dot_general(g, x, rows).T


_bilinear = bilinear(
    unless_on_gpus(_product, _product_on_gpus),
    unless_on_gpus(_input_gradient, _input_gradient_on_gpus),
    unless_on_gpus(_kernel_gradient, _kernel_gradient_on_gpus),
)

_linear = bilinear(_product, _input_gradient, _kernel_gradient)
