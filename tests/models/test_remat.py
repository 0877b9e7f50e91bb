"""Backbones that compute activations again in the backward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.models.build import build_model
from attnseg_jax.models.remat import REMAT, rematerialised


def gradient(model, remat, variables, image):
    """Of a loss, and what the batch statistics then are."""

    def loss(params):
        given, keys = {**variables, "params": params}, {"dropout": jax.random.key(3)}
        with rematerialised(remat):
            out, updated = model.apply(given, image, train=True, rngs=keys, mutable=["batch_stats"])
        return jnp.mean(out.logits**2), updated

    return jax.grad(loss, has_aux=True)(variables["params"])


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, blocks", [("tiny", 5), ("resnet18", 8), pytest.param("vit_ti", 12, marks=pytest.mark.slow), ("vgg16", 0)]
)
def test_what_is_computed_again(name, blocks):
    """Submodules with submodules of their own, such as residual blocks; of a plain stack of convolutions none."""
    model = build_model({"backbone": {"name": name}, "attention": {"name": "self"}}, 5)
    image = jax.ShapeDtypeStruct((1, 32, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def count(remat):
        text = str(jax.make_jaxpr(functools.partial(gradient, model, remat))(variables, image))
        return text.count("remat")

    assert {remat: count(remat) for remat in REMAT} == {"none": 0, "blocks": blocks, "full": 1}


@pytest.mark.thorough
def test_the_numbers_stay():
    """Gradients and statistics, of blocks with batch normalisation."""
    model = build_model({"backbone": {"name": "tiny", "tiny": {"width": 8}}}, 5)
    image = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
    variables = model.init(jax.random.key(0), image)
    found = {remat: jax.jit(functools.partial(gradient, model, remat))(variables, image) for remat in REMAT}
    for remat in ("blocks", "full"):
        for x, y in zip(jax.tree.leaves(found[remat]), jax.tree.leaves(found["none"]), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
