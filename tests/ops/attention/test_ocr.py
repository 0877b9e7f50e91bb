"""Soft regions against a float64 oracle."""

import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from attnseg_jax.ops.attention.ocr import region_means, region_weights

RNG = np.random.default_rng(0)
X, LOGITS = (jnp.asarray(RNG.standard_normal((2, 3, 5, c)), jnp.float32) for c in (4, 7))


def test_equal_the_oracle():
    x, logits = (np.asarray(t, np.float64) for t in (X, LOGITS))
    weights, means = np.zeros((2, 7, 3, 5)), np.zeros((2, 7, 4))
    for b, k in np.ndindex(2, 7):
        total = sum(np.exp(logits[b, i, j, k]) for i, j in np.ndindex(3, 5))
        for i, j in np.ndindex(3, 5):
            weights[b, k, i, j] = np.exp(logits[b, i, j, k]) / total
            means[b, k] += weights[b, k, i, j] * x[b, i, j]
    found = region_weights(LOGITS)
    np.testing.assert_allclose(found, weights.reshape(2, 7, 15), atol=1e-6)
    np.testing.assert_allclose(region_means(X, found), means, atol=1e-6)


def test_gradients():
    def means(x, logits):
        return region_means(x, region_weights(logits))

    check_grads(means, (X, LOGITS), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


def test_bfloat16_weights_are_float32():
    weights = region_weights(LOGITS.astype(jnp.bfloat16))
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), np.ones((2, 7)), rtol=1e-6)
    assert region_means(X.astype(jnp.bfloat16), weights).dtype == jnp.bfloat16
