"""Channel attention against a float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from attnseg_jax.ops.attention.danet import channel_attention, channel_weights

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 4)) / 2, jnp.float32)


def both(x):
    return channel_attention(x, channel_weights(x))


def test_equals_the_oracle():
    x = np.asarray(X, np.float64)
    weights, expected = np.zeros((2, 4, 4)), np.zeros(x.shape)
    for b, c in np.ndindex(2, 4):
        energy = np.array([(x[b, ..., c] * x[b, ..., d]).sum() for d in range(4)])
        powers = np.exp(energy.max() - energy)
        weights[b, c] = powers / powers.sum()
        expected[b, ..., c] = sum(weights[b, c, d] * x[b, ..., d] for d in range(4))
    np.testing.assert_allclose(channel_weights(X), weights, atol=1e-6)
    np.testing.assert_allclose(both(X), expected, atol=2e-6)


def test_gradients():
    check_grads(both, (X,), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


def test_large_maps_do_not_overflow():
    x = jnp.ones((1, 100, 100, 4)) * jnp.array([1.0, -1.0, 100.0, 0.0]).reshape(1, 1, 1, 4)
    np.testing.assert_array_equal(channel_weights(x)[0].argmax(-1), [1, 2, 1, 0])
    assert np.isfinite(channel_weights(x)).all()


def test_products_are_in_full_precision_whatever_the_default_is():
    with jax.default_matmul_precision("bfloat16"):
        jaxpr = jax.make_jaxpr(channel_weights)(X.astype(jnp.bfloat16))
    (product,) = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    assert product.outvars[0].aval.dtype == jnp.float32
    assert both(X.astype(jnp.bfloat16)).dtype == jnp.bfloat16
