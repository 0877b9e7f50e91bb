"""Dense convolution whose kernel's gradient is fast on a CPU; all else, and all on accelerators, is XLA's own.

That gradient is one product: of the cotangents, and of the pixels under all taps side by side, summed over all windows.
XLA's own form writes large transposes to memory. Here blocks of rows, small enough for the cache, are multiplied one
after another, and their products added. Figures are in `docs/performance.md`.
"""

import functools
import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.axis import Axis, Sides, pad
from attnseg_jax.ops.linear_map import bilinear
from attnseg_jax.ops.plain import plain_conv, plain_input_gradient, plain_kernel_gradient
from attnseg_jax.ops.platforms import spread_by_the_compiler
from attnseg_jax.ops.symbolic import is_symbolic

# Bytes of the pixels under all taps of a block.
_BLOCK = 1_700_000
# Windows of a block, at least: with fewer the sums, which every block reads and writes, cost more than the product.
_WINDOWS = 512


def dense_conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c o"],
    stride: tuple[int, int] = (1, 1),
    padding: Sides = ((0, 0), (0, 0)),
    dilation: tuple[int, int] = (1, 1),
) -> Float[Array, "b i j o"]:
    """Cross-correlate `x` with `kernel`, zero-padded by `((top, bottom), (left, right))`.

    >>> dense_conv(jnp.ones((1, 2, 3, 2)), jnp.ones((2, 2, 2, 1)), padding=((0, 0), (0, 1))).ravel().tolist()
    [8.0, 8.0, 4.0]
    """
    return _convolution(*map(Axis, kernel.shape, stride, dilation, padding, x.shape[1:3]))(x, kernel)


def worth_blocks(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c o"], stride: tuple[int, int]) -> bool:
    """Whether the kernel's gradient fills more than a block; never where the compiler spreads it over devices.

    >>> worth_blocks(jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 4, 8)), (1, 1))
    False
    """
    if is_symbolic(*x.shape) or spread_by_the_compiler():
        return False
    return math.prod((*x.shape, *kernel.shape[:2])) * x.dtype.itemsize // math.prod(stride) > _BLOCK


@functools.lru_cache(maxsize=1024)
def _convolution(rows, columns):
    """The convolution of images and kernels of given sizes."""
    axes = rows, columns

    def kernel_gradient(x, g):
        in_blocks = functools.partial(_in_blocks, axes)
        return lax.platform_dependent(x, g, cpu=in_blocks, default=functools.partial(plain_kernel_gradient, axes=axes))

    return bilinear(
        functools.partial(plain_conv, axes=axes), functools.partial(plain_input_gradient, axes=axes), kernel_gradient
    )


def _in_blocks(axes, x, g):
    rows, columns = axes
    c, o = x.shape[-1], g.shape[-1]
    images, height = _block(rows, columns, len(g), c * x.dtype.itemsize)
    blocks = -(-rows.out // height)
    x = pad(x, [(rows.before, rows.after(blocks * height)), (columns.before, columns.after(columns.out))])
    g = pad(g, [(0, blocks * height - rows.out), (0, 0)])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    taps = rows.taps * columns.taps
    reach = [images, *((n - 1) * axis.stride + 1 for n, axis in zip((height, columns.out), axes)), c]

    def step(n, carry):
        total, pixels = carry
        image, row = lax.div(n, blocks) * images, lax.rem(n, blocks) * height

        # A loop: written out, every tap would be a program of its own to compile.
        def tap(t, pixels):
            i, j = lax.div(t, columns.taps), lax.rem(t, columns.taps)
            start = (image, row * rows.stride + i * rows.dilation, j * columns.dilation, 0)
            part = lax.dynamic_slice(x, start, reach)[:, :: rows.stride, :: columns.stride]
            return lax.dynamic_update_slice(pixels, part, (0, 0, 0, t * c))

        pixels = lax.fori_loop(0, taps, tap, pixels)
        part_g = lax.dynamic_slice(g, (image, row, 0, 0), (images, height, columns.out, o))
        # XLA writes the first operand out transposed: the cotangents, which are fewer than the pixels under all taps.
        every_window = (((0, 1, 2), (0, 1, 2)), ((), ()))
        product = lax.dot_general(part_g, pixels, every_window, preferred_element_type=wide)
        return total + product, pixels

    total = jnp.zeros_like(g, wide, (o, taps * c))
    pixels = jnp.zeros_like(x, shape=(images, height, columns.out, taps * c))
    total, _ = lax.fori_loop(0, len(g) // images * blocks, step, (total, pixels))
    return total.T.reshape(rows.taps, columns.taps, c, o).astype(x.dtype)


def _block(rows, columns, batch, bytes_each):
    """How many images, a divisor of the batch, and how many rows of the result a block has."""
    row = columns.out * rows.taps * columns.taps * bytes_each
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    images = max(n for n in divisors if n == 1 or n * row <= _BLOCK)
    height = max(1, _BLOCK // (images * row), math.ceil(_WINDOWS / (images * columns.out)))
    blocks = math.ceil(rows.out / height)
    # Of equal height, so that little is padded.
    return images, math.ceil(rows.out / blocks)
