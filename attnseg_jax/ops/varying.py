"""What `shard_map` asks of arrays that meet in a loop or in a function with a gradient of its own."""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def varying_together(*arrays: Array | None) -> list[Array | None]:
    """The same arrays, which inside `shard_map` then all vary over the same mesh axes; None stays None.

    Elsewhere this is nothing: XLA drops a choice between equals, and jax's own names for it change from release to
    release.

    >>> [array.tolist() for array in varying_together(jnp.ones(2), jnp.arange(3))]
    [[1.0, 1.0], [0, 1, 2]]
    """
    any_of_them = functools.reduce(jnp.logical_or, [jnp.zeros_like(x, bool, ()) for x in arrays if x is not None])
    return [x if x is None else lax.select(any_of_them, x, x) for x in arrays]
