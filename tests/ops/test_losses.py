"""Cross-entropy against a float64 oracle, its properties, and class weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from attnseg_jax.ops import losses

B, H, W, K = 2, 3, 5, 7


def draw(void=0.3):
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((B, H, W)) < void, 255, rng.integers(0, K, (B, H, W)))
    return jnp.asarray(3 * rng.standard_normal((B, H, W, K)), jnp.float32), jnp.asarray(labels, jnp.int32)


WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0, 0.25, 1.5])


def oracle(logits, labels, weights=None, smoothing=0.0):
    """Pixel by pixel in float64."""
    weights = np.ones(K) if weights is None else weights
    total = count = 0.0
    for z, label in zip(np.asarray(logits, np.float64).reshape(-1, K), np.asarray(labels).ravel()):
        if label != 255:
            surprise = np.log(np.exp(z).sum()) - z
            total += (1 - smoothing) * weights[label] * surprise[label] + smoothing * np.mean(weights * surprise)
            count += weights[label]
    return total, count


@pytest.mark.thorough
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_equals_the_oracle(weights, smoothing):
    logits, labels = draw()
    device = None if weights is None else jnp.asarray(weights, jnp.float32)
    found = losses.cross_entropy(logits, labels, class_weights=device, label_smoothing=smoothing)
    np.testing.assert_allclose(found, oracle(logits, labels, weights, smoothing), rtol=1e-6)

    def value(z):
        return losses.cross_entropy(z, labels, class_weights=device, label_smoothing=smoothing)[0]

    check_grads(jax.jit(value), (logits,), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


def test_ignored_pixels_have_exactly_no_gradient_even_if_their_logits_are_infinite():
    logits, labels = draw()
    wild = jnp.where((labels == 255)[..., None], jnp.inf, logits)
    gradient = jax.jit(jax.grad(lambda z: losses.cross_entropy(z, labels)[0]))
    assert (gradient(wild)[labels == 255] == 0).all()
    assert (gradient(wild)[labels != 255] != 0).all()
    np.testing.assert_array_equal(gradient(wild), gradient(logits))


def test_no_valid_pixel_gives_zero_and_zero_gradient():
    logits, labels = draw(void=1.1)

    def loss(z):
        return losses.mean(*losses.cross_entropy(z, labels, class_weights=jnp.asarray(WEIGHTS, jnp.float32)))

    value, gradient = jax.value_and_grad(loss)(logits)
    assert value == 0 and (gradient == 0).all()
    assert tuple(map(float, losses.cross_entropy(logits, labels))) == (0.0, 0.0)


def test_sums_and_counts_add_up_over_parts():
    logits, labels = draw()
    compiled = jax.jit(losses.cross_entropy)
    whole = compiled(logits, labels)
    parts = [compiled(logits[i : i + 1], labels[i : i + 1]) for i in range(B)]
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)
    assert len({float(count) for _, count in parts}) == B  # unevenly ignored, or the mean of means would do
    mapped = jax.jit(jax.vmap(losses.cross_entropy))(logits[:, None], labels[:, None])
    np.testing.assert_allclose(np.stack(mapped), np.array(parts).T, rtol=1e-6)


def test_a_label_that_is_no_class_is_not_silent():
    logits, labels = draw()
    for wrong in (-1, K):
        assert np.isnan(losses.cross_entropy(logits, labels.at[0, 0, 0].set(wrong))[0])


def test_computes_in_float32_whatever_the_logits_are():
    logits, labels = draw()
    low = logits.astype(jnp.bfloat16)
    found = losses.cross_entropy(low, labels)
    np.testing.assert_allclose(found, oracle(low, labels), rtol=1e-6)
    assert {t.dtype for t in found} == {jnp.dtype("float32")}


def test_a_large_image_loses_no_digits():
    """2.4 million pixels, of which a running float32 sum would keep four or five digits."""
    logits = jnp.zeros((2, 1000, 1200, 2)).at[..., 0].set(0.1)
    labels = jnp.ones((2, 1000, 1200), jnp.int32)
    loss_sum, count = jax.jit(losses.cross_entropy)(logits, labels)
    assert count == 2_400_000
    np.testing.assert_allclose(float(loss_sum), 2_400_000 * np.log1p(np.exp(np.float64(np.float32(0.1)))), rtol=3e-6)


def test_wrong_shapes():
    logits, labels = draw()
    with pytest.raises(ValueError, match="do not fit"):
        losses.cross_entropy(logits, labels[:, 1:])


def test_median_frequency_by_hand():
    """Frequencies 20/100, 30/50 and 10/100 have median 0.2."""
    weights = losses.median_frequency_weights(np.array([20, 30, 0, 10]), np.array([100, 50, 0, 100]))
    np.testing.assert_allclose(weights, [1.0, 1 / 3, 0.0, 2.0], rtol=1e-6)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(losses.median_frequency_weights(np.zeros(3, np.int64)), np.zeros(3))


def test_presence_by_hand():
    _, labels = draw()
    logits = np.random.default_rng(1).standard_normal((B, K)).astype(np.float32)
    for weights in (np.ones(K), WEIGHTS):
        total = 0.0
        for z, label in zip(logits.astype(np.float64), np.asarray(labels)):
            pixels = label[label != 255]
            p = 1 / (1 + np.exp(-z))
            surprises = [-np.log(p[i] if i in pixels else 1 - p[i]) for i in range(K)]
            total += np.mean(surprises) * weights[pixels].sum()
        found = losses.presence_cross_entropy(jnp.asarray(logits), labels, class_weights=jnp.asarray(weights))
        assert float(found) == pytest.approx(total, rel=1e-5)


def test_an_image_without_labels_has_no_presence_loss():
    _, labels = draw()
    gradient = jax.grad(losses.presence_cross_entropy)(jnp.full((B, K), 3.0), labels.at[1].set(255))
    assert (gradient[1] == 0).all() and (gradient[0] != 0).all()


def test_presence_of_unknown_labels_is_nan():
    logits, labels = jnp.zeros((B, K)), draw()[1]
    for label in (-1, K):
        assert np.isnan(losses.presence_cross_entropy(logits, labels.at[0, 0, 0].set(label)))


def test_presence_of_other_images_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        losses.presence_cross_entropy(jnp.zeros((B + 1, K)), draw()[1])
