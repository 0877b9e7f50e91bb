"""Semantic scores of masks with classes against a float64 oracle; gradients, also where masks are closed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from golden import Golden
from jax.test_util import check_grads
from jaxtyping import jaxtyped
from layout import assert_golden, nchw

from attnseg_jax.ops.mask_classification import resized_semantic_logits, semantic_logits
from attnseg_jax.ops.resize import resize

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
    # One mask is open and the other 500 powers of e away.
    found = gradient(jnp.array([300.0, -200.0]).reshape(1, 1, 1, 2))
    np.testing.assert_allclose(found.ravel(), [0.0, 0.0], atol=1e-6)


def test_bfloat16_inputs_are_computed_in_float32():
    classes, masks = jnp.asarray(CLASSES, jnp.bfloat16), jnp.asarray(MASKS, jnp.bfloat16)
    found = semantic_logits(classes, masks)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, semantic_logits(classes.astype(jnp.float32), masks.astype(jnp.float32)))


@pytest.mark.parametrize(
    "name, size, targets",
    [("op_eomt_semantic", 40, [(23, 17), (29, 31)]), ("op_mask2former_semantic", 384, [(26, 35), (31, 19)])],
)
def test_scores_of_the_originals(name, size, targets):
    """Masks resized, summed to scores, which are resized again."""
    case = Golden(name)
    given = {key: jnp.asarray(value) for key, value in case.inputs().items()}

    @jax.jit
    def scores(classes, masks):
        return jnp.exp(resized_semantic_logits(classes, masks, (size, size), rows=16))

    found = scores(given["class_logits"], given["mask_logits"])
    for i, target in enumerate(targets):
        resized = resize(found[i : i + 1], target)[0]
        assert_golden(case, f"scores_{i}", np.moveaxis(resized, 2, 0))
        assert_golden(case, f"map_{i}", resized.argmax(-1))


@pytest.mark.parametrize("size, rows, align_corners", [((12, 17), 1, False), ((12, 17), 5, True), ((2, 3), 1, False)])
def test_stripes_make_no_difference(size, rows, align_corners):
    """Also in the gradients; with rows that do not divide the height, and masks that are larger than the image."""
    masks, weights = jnp.asarray(nchw(MASKS)), jnp.asarray(RNG.standard_normal((2, *size, 4)), jnp.float32)

    def function(classes, masks, rows):
        found = resized_semantic_logits(classes, masks, size, align_corners=align_corners, rows=rows)
        return (found * weights).sum(), found

    run = jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True), static_argnums=2)
    whole, striped = run(CLASSES, masks, size[0]), run(CLASSES, masks, rows)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(striped), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)
