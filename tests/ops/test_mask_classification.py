"""Semantic scores of masks with classes against a float64 oracle; gradients, also where masks are closed."""

import jax
import jax.numpy as jnp
import numpy as np
from beartype import beartype
from jax.test_util import check_grads
from jaxtyping import jaxtyped

from attnseg_jax.ops.mask_classification import semantic_logits

RNG = np.random.default_rng(0)
CLASSES, MASKS = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 6, 5), (2, 3, 7, 6)))


def test_equals_the_oracle():
    """One pixel and one query at a time; the last class is no class."""
    expected = np.zeros((2, 3, 7, 4))
    for b, y, x, q in np.ndindex(2, 3, 7, 6):
        powers = np.exp(CLASSES[b, q].astype(np.float64))
        expected[b, y, x] += powers[:4] / powers.sum() / (1 + np.exp(-MASKS[b, y, x, q].astype(np.float64)))
    found = jaxtyped(typechecker=beartype)(semantic_logits)(jnp.asarray(CLASSES), jnp.asarray(MASKS))
    np.testing.assert_allclose(found, np.log(expected), atol=2e-6)


def test_gradients():
    check_grads(jax.jit(semantic_logits), (CLASSES, MASKS), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


def test_closed_masks_and_improbable_classes_still_learn():
    """All masks at a millionth of a millionth: plain scores under a logarithm would lose their gradient."""
    classes = jnp.array([[[0.0, 60.0, 0.0], [60.0, 0.0, 0.0]]])

    @jax.jit
    @jax.grad
    def gradient(masks):
        return -jax.nn.log_softmax(semantic_logits(classes, masks))[..., 0].sum()

    found = gradient(jnp.full((1, 1, 1, 2), -200.0))
    np.testing.assert_allclose(found.ravel(), [0.5, -0.5], atol=1e-5)


def test_bfloat16_inputs_are_computed_in_float32():
    classes, masks = jnp.asarray(CLASSES, jnp.bfloat16), jnp.asarray(MASKS, jnp.bfloat16)
    found = semantic_logits(classes, masks)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, semantic_logits(classes.astype(jnp.float32), masks.astype(jnp.float32)))
