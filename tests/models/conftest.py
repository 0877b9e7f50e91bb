"""Random variables without compiling an initialisation."""

import functools

import jax
import numpy as np
import pytest


def _fill(path, leaf, rng):
    name = path[-1].key
    if name in ("scale", "var"):
        return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    fan_in = np.prod(leaf.shape[:-1]) if name == "kernel" else 100
    return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(leaf.dtype)


@pytest.fixture
def random_variables():
    """`random_variables(model, *inputs, **keywords)`: NumPy values for everything `model.init` would make."""

    def make(model, *inputs, **keywords):
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(functools.partial(model.init, **keywords), jax.random.key(0), *inputs)
        return jax.tree_util.tree_map_with_path(lambda path, leaf: _fill(path, leaf, rng), shapes)

    return make
