"""Primitives in forms that the converter of TensorFlow Lite takes."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def _argmax(x: Array, *, axes: Sequence[int], index_dtype: Any) -> Array:
    """The first of the largest, of finite numbers, in operations that TensorFlow Lite has.

    >>> _argmax(jnp.array([[1.0, 3.0, 3.0]]), axes=(1,), index_dtype=jnp.int32).tolist()
    [1]
    """
    places = lax.broadcasted_iota(jnp.int32, x.shape, axes[0])
    return jnp.where(x == x.max(axes, keepdims=True), places, x.shape[axes[0]]).min(axes).astype(index_dtype)


def _dot_general(x: Array, y: Array, *, dimension_numbers: Any, out_sharding: Any = None, **options: Any) -> Array:
    """As products of matrices, of one batch at most.

    >>> x, y = jnp.ones((2, 3, 4, 5)), jnp.ones((4, 2, 5, 6))
    >>> numbers = (((3,), (2,)), ((0, 2), (1, 0)))
    >>> bool((_dot_general(x, y, dimension_numbers=numbers) == lax.dot_general(x, y, numbers)).all())
    True
    """
    (of_x, of_y), (batch_x, batch_y) = dimension_numbers
    free_x, free_y = (
        [axis for axis in range(z.ndim) if axis not in (*of, *batch)]
        for z, of, batch in ((x, of_x, batch_x), (y, of_y, batch_y))
    )
    shape = [x.shape[i] for i in (*batch_x, *free_x)] + [y.shape[i] for i in free_y]
    summed = math.prod(x.shape[i] for i in of_x)
    lead = [math.prod(x.shape[i] for i in batch_x)] if batch_x else []
    x = x.transpose(*batch_x, *free_x, *of_x).reshape(*lead, -1, summed)
    y = y.transpose(*batch_y, *of_y, *free_y).reshape(*lead, summed, -1)
    if not lead and x.shape[0] == 1:
        # The converter gives the product of one row, as of a mean over the picture, a wrong rank.
        return (x.reshape(summed, 1) * y).sum(0).reshape(shape)
    last, batch = len(lead), tuple(range(len(lead)))
    return lax.dot_general(x, y, (((last + 1,), (last,)), (batch, batch)), **options).reshape(shape)


FORMS = {"argmax": _argmax, "dot_general": _dot_general}
"""What stands for primitives whose StableHLO the converter of TensorFlow does not take."""
