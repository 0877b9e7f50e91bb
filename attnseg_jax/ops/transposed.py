"""Transposed convolution as matrix products, where that is faster than XLA's own.

A part of the kernel as large as the stride fills the steps of the stride without overlap: it is a product of all
pixels with it, whose channels are then laid out as pixels. Figures are in `docs/performance.md`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.axis import Sides, pad
from attnseg_jax.ops.linear_map import bilinear
from attnseg_jax.ops.pointwise import pointwise


def transposed_conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c o"],
    strides: tuple[int, int],
    sides: Sides = ((0, 0), (0, 0)),
) -> Float[Array, "b i j o"]:
    """Adds `kernel` times each pixel to a map of zeros, the pixels `strides` apart.

    `sides`, `((top, bottom), (left, right))`, of zeros are put around it, or cut off where they are negative.

    >>> transposed_conv(jnp.ones((1, 1, 2, 1)), jnp.arange(3.0).reshape(1, 3, 1, 1), (1, 2)).ravel().tolist()
    [0.0, 1.0, 2.0, 1.0, 2.0]
    """
    return _convolution(strides, sides, x.shape[1:3], kernel.shape[:2])(x, kernel)


def plain_transposed(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw _ o"], strides: tuple[int, int], sides: Sides, groups: int
) -> Float[Array, "b i j o"]:
    """`transposed_conv` by XLA, of one or several groups.

    >>> plain_transposed(jnp.ones((1, 1, 2, 2)), jnp.ones((1, 1, 1, 2)), (1, 2), ((0, 0), (0, 1)), 2)[..., 0].tolist()
    [[[1.0, 0.0, 1.0, 0.0]]]
    """
    return lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        window_strides=(1, 1),
        padding=[(k - 1 + before, k - 1 + after) for k, (before, after) in zip(kernel.shape, sides)],
        lhs_dilation=strides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.lru_cache(maxsize=1024)
def _convolution(strides, sides, size, taps):
    """The transposed convolution of images and kernels of given sizes."""
    products = functools.partial(_products, strides, sides)
    plain = functools.partial(plain_transposed, strides=strides, sides=sides, groups=1)

    def by_image(form, kernel, g):
        x = jnp.zeros_like(g, shape=(g.shape[0], *size, kernel.shape[2]))
        return jax.vjp(lambda x: form(x, kernel), x)[1](g)[0]

    def by_kernel(form, x, g):
        kernel = jnp.zeros_like(g, shape=(*taps, x.shape[-1], g.shape[-1]))
        return jax.vjp(lambda kernel: form(x, kernel), kernel)[1](g)[0]

    def choose(function, *platforms):
        forms = dict.fromkeys(platforms, functools.partial(function, products))
        return functools.partial(lax.platform_dependent, **forms, default=functools.partial(function, plain))

    return bilinear(
        choose(lambda form, x, kernel: form(x, kernel), "cpu"), choose(by_image, "cpu", "tpu"), choose(by_kernel, "cpu")
    )


def _products(strides, sides, x, kernel):
    b, h, w, c = x.shape
    (kh, kw, _, o), (sh, sw) = kernel.shape, strides
    rows, columns = -(-kh // sh), -(-kw // sw)
    kernel = jnp.pad(kernel, ((0, rows * sh - kh), (0, columns * sw - kw), (0, 0), (0, 0)))
    parts = kernel.reshape(rows, sh, columns, sw, c, o)
    total = 0.0
    for i in range(rows):
        for j in range(columns):
            y = pointwise(x, parts[i, :, j].transpose(2, 0, 1, 3).reshape(c, sh * sw * o))
            y = y.reshape(b, h, w, sh, sw, o).transpose(0, 1, 3, 2, 4, 5).reshape(b, h * sh, w * sw, o)
            total += pad(y, ((i * sh, (rows - 1 - i) * sh), (j * sw, (columns - 1 - j) * sw)))
    # The zero taps that fill the last part reach too far.
    cut = [(before, after - (n * s - k)) for (before, after), n, s, k in zip(sides, (rows, columns), strides, (kh, kw))]
    return pad(total, cut)
