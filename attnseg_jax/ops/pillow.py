"""Resizing pictures of 8 bits with the very numbers of Pillow, by which data are resized when they are read."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from attnseg_jax.ops.resize import antialiased_matrix

# Weights are fractions of 2 ** 22, and every axis is rounded (Pillow's Resample.c, `PRECISION_BITS`).
_BITS = 22


def resize_picture(
    x: UInt8[Array, "b h w c"], size: tuple[int, int], method: str = "bilinear"
) -> UInt8[Array, "b i j c"]:
    """Pillow's bilinear or bicubic resize to `size` (h, w), antialiased where it shrinks: the columns, then the rows.

    Where the height shrinks much more than the width Pillow begins with the rows, and numbers are off by one.

    >>> resize_picture(jnp.array([0, 10, 255, 255], jnp.uint8).reshape(1, 1, 4, 1), (1, 2)).ravel().tolist()
    [41, 220]
    """
    for axis in (2, 1):
        if size[axis - 1] != x.shape[axis]:
            x = _along(x, axis, size[axis - 1], method)
    return x


def _along(x, axis, out, method):
    weights = antialiased_matrix(x.shape[axis], out, method) * (1 << _BITS)
    # Halves away from zero.
    matrix = np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32)
    first = (matrix != 0).argmax(1)
    shape = [out if i == axis else 1 for i in range(x.ndim)]
    total = jnp.full((), 1 << (_BITS - 1), jnp.int32)
    for tap in range(int((matrix != 0).sum(1).max())):
        place = np.minimum(first + tap, x.shape[axis] - 1)
        weight = np.where(first + tap < x.shape[axis], matrix[np.arange(out), place], 0)
        total = total + jnp.take(x, place, axis=axis).astype(jnp.int32) * jnp.asarray(weight).reshape(shape)
    return jnp.clip(total >> _BITS, 0, 255).astype(jnp.uint8)
