"""Why the embedded data set needs attention, by construction: what a shape's logits can see of the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.configs import default
from attnseg_jax.data.context import HEIGHT, KEY_DISTANCE, WIDTH, draw_scene
from attnseg_jax.data.transforms.fields import normalise
from attnseg_jax.models import build_model
from attnseg_jax.weights import catalogue

SCENES = 6


def gradients(attention):
    """Gradient of each scene's summed shape logits with respect to its image, for the default config's model."""
    config = catalogue.apply(default.get_config())
    config.model.attention.name = attention
    model = build_model(config.model, 7)
    scenes = [draw_scene("val", i) for i in range(SCENES)]
    images = jnp.stack([normalise(scene.image, config.data.mean, config.data.std) for scene in scenes])
    shapes = jnp.stack([np.logical_or.reduce([mask for _, mask in scene.shapes]) for scene in scenes])
    rng = np.random.default_rng(0)
    # Drawn by NumPy, which spares compiling the initialisers; statistics of a norm must be positive.
    variables = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape) ** (2 if x.ndim == 1 else 1), jnp.float32),
        jax.eval_shape(lambda: model.init(jax.random.key(0), images[:1])),
    )

    @jax.jit
    def gradient(images):
        def total(images):
            # One class would do; different weights keep the sum over classes from cancelling.
            logits = model.apply(variables, images, train=False).logits @ jnp.arange(1.0, 8.0)
            return jnp.where(shapes, logits, 0.0).sum()

        return jax.grad(total)(images)

    keys = np.zeros((SCENES, HEIGHT, WIDTH), bool)
    for i, scene in enumerate(scenes):
        top, left, bottom, right = scene.key_box
        keys[i, top:bottom, left:right] = True
    return np.asarray(gradient(images)), keys, np.asarray(shapes)


@pytest.fixture(scope="module")
def local():
    return gradients("none")


def test_without_attention_the_key_has_exactly_no_influence(local):
    gradient, keys, shapes = local
    for i in range(SCENES):
        assert (gradient[i][keys[i]] == 0.0).all()
        # The shape's own pixels have influence, so the gradient is not just missing.
        assert (np.abs(gradient[i][shapes[i]]).sum(-1) > 0).mean() > 0.9


def test_without_attention_the_reach_ends_before_the_key(local):
    """The farthest pixel with any influence is nearer than the key, yet not next to the shape."""
    gradient, _, shapes = local
    reach = 0
    for i in range(SCENES):
        seen, columns = (np.flatnonzero(mask.any(0)) for mask in ((gradient[i] != 0).any(-1), shapes[i]))
        reach = max(reach, int(np.abs(seen[:, None] - columns).min(1).max()))
    assert 8 < reach < KEY_DISTANCE


def test_with_attention_every_pixel_of_the_key_has_influence():
    gradient, keys, _ = gradients("self")
    for i in range(SCENES):
        assert (np.abs(gradient[i][keys[i]]).sum(-1) > 0).mean() > 0.9
