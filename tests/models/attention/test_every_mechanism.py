"""What holds for every mechanism inside a model: it evaluates at any size, keeps images apart, and may be rounded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax import build_model
from attnseg_jax.models import ATTENTION

RNG = np.random.default_rng(0)
TRAINED, OTHER = (2, 45, 61, 3), (3, 61, 85, 3)
FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# With skips, so that gates have something to do.
PARTS = {"backbone": {"tiny": {"width": 16}}, "decoder": {"fcn": {"skips": (2,)}}}


def model_of(name, dtype=jnp.float32):
    return build_model({**PARTS, "attention": {"name": name}}, 7, dtype=dtype)


def image(shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ATTENTION)
def test_evaluates_at_another_size_and_image_by_image(name, random_variables):
    model = model_of(name)
    variables = random_variables(model, image(TRAINED))
    apply = FAST_COMPILE(lambda x: model.apply(variables, x).logits)
    x = image(OTHER)
    together = np.asarray(apply(x))
    assert together.shape == (*OTHER[:3], 7) and np.isfinite(together).all()
    apart = np.concatenate([apply(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(together, apart, atol=2e-5 * abs(together).max())


@pytest.mark.parametrize("name", ATTENTION)
def test_bfloat16_is_near_float32(name, random_variables):
    x = image(TRAINED)
    variables = random_variables(model_of(name), x)
    exact, rounded = (
        FAST_COMPILE(model_of(name, dtype).apply)(variables, x).logits for dtype in (jnp.float32, jnp.bfloat16)
    )
    error = abs(rounded - exact).max() / abs(exact).max()
    assert 1e-4 < error < 0.05
