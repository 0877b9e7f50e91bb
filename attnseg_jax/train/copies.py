"""Arrays of which every process has an equal copy: as one global array, and back."""

import jax
import numpy as np
from jax.sharding import Sharding


def local_copy(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """This process's copy of a replicated array of all processes."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return x
    if _is_key(x):
        return _key_like(x, local_copy(jax.random.key_data(x)))
    return x.addressable_data(0)


def global_array(x: jax.Array | np.ndarray, sharding: Sharding) -> jax.Array:
    """One array of all processes from their equal copies; one that is global already gets the sharding."""
    if _is_key(x):
        return _key_like(x, global_array(jax.random.key_data(x), sharding))
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return x if x.sharding.is_equivalent_to(sharding, x.ndim) else jax.device_put(x, sharding)
    x = np.array(x)  # a copy, which the devices may share
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _is_key(x: jax.Array | np.ndarray) -> bool:
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_like(key: jax.Array, data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))
