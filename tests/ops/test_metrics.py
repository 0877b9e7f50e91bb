"""Confusion counts and scores against hand-made cases and a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.ops import metrics

confusion_matrix = jax.jit(metrics.confusion_matrix, static_argnums=2)


def draw(k=5, shape=(3, 13, 17)):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, k, shape)
    labels[rng.random(shape) < 0.2] = 255
    return rng.integers(0, k, shape), labels


def count(prediction, labels, k=5):
    found = np.zeros((k, k), int)
    for p, y in zip(prediction.ravel(), labels.ravel()):
        if y != 255:
            found[y, p] += 1
    return found


def test_counts_equal_a_loop():
    prediction, labels = draw()
    found = confusion_matrix(jnp.asarray(prediction), jnp.asarray(labels), 5)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, count(prediction, labels))


def test_small_integers_do_not_wrap():
    prediction, labels = draw(k=150)
    small = confusion_matrix(jnp.asarray(prediction, jnp.uint8), jnp.asarray(labels, jnp.uint8), 150)
    np.testing.assert_array_equal(small, count(prediction, labels, 150))


def test_what_is_no_class_is_left_out():
    prediction, labels = jnp.array([[[0, 5, -1, 1, 1]]]), jnp.array([[[0, 0, 0, 7, -2]]])
    assert confusion_matrix(prediction, labels, 5).sum() == 1


def test_vmap_equals_a_loop():
    prediction, labels = map(jnp.asarray, draw())

    @jax.jit
    def one(p, y):
        return metrics.confusion_matrix(p[None], y[None], 5)

    np.testing.assert_array_equal(jax.vmap(one)(prediction, labels), jnp.stack(list(map(one, prediction, labels))))


def test_counts_beyond_float32_are_exact():
    pixels = 2**24 + 1  # the first integer float32 does not hold
    image = jnp.zeros((1, 1, pixels), jnp.int32)
    assert int(confusion_matrix(image, image, 2)[0, 0]) == pixels


def test_scores_by_hand():
    """Truth 4, 3, 0, 0 pixels, prediction 3, 3, 1, 0: class 2 is only predicted, class 3 is nowhere."""
    found = metrics.scores(np.array([[3, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    np.testing.assert_allclose(found["iou"], [3 / 4, 2 / 4, 0, np.nan])
    assert found["miou"] == pytest.approx((0.75 + 0.5 + 0) / 3)
    assert found["pixel_accuracy"] == pytest.approx(5 / 7)
    assert found["class_accuracy"] == pytest.approx((3 / 4 + 2 / 3) / 2)


def test_an_empty_matrix_scores_nan():
    found = metrics.scores(np.zeros((3, 3), np.int64))
    assert all(np.isnan(value).all() for value in found.values())


def test_large_counts_stay_exact():
    found = metrics.scores(np.array([[2**53, 1], [0, 2**40]], np.int64))
    assert found["iou"][1] == 2**40 / (2**40 + 1)


def test_a_matrix_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="square"):
        metrics.scores(np.zeros((2, 3), np.int64))


def test_shapes_that_would_be_spread():
    prediction, labels = draw(shape=(1, 5, 5))
    for wrong in (labels[..., None], labels[0]):
        with pytest.raises(ValueError, match=r"prediction \(1, 5, 5\) and labels .* must have one shape"):
            metrics.confusion_matrix(jnp.asarray(prediction), jnp.asarray(wrong), 5)
