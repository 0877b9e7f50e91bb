"""Arrays that meet in a loop, or in a function with a gradient of its own, as `shard_map` requires them."""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def varying_together(*arrays: Array | None) -> list[Array | None]:
    """The same arrays, which inside `shard_map` all vary over the same mesh axes; None stays None.

    It costs nothing, since XLA removes a selection between two equal arrays. JAX has a function for this too, but its
    name changes between releases.

    >>> [array.tolist() for array in varying_together(jnp.ones(2), jnp.arange(3))]
    [[1.0, 1.0], [0, 1, 2]]
    """
    any_of_them = functools.reduce(jnp.logical_or, [jnp.zeros_like(x, bool, ()) for x in arrays if x is not None])
    return [x if x is None else lax.select(any_of_them, x, x) for x in arrays]
