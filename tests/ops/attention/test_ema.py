"""Expectation-maximisation attention against a float64 oracle, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jax.test_util import check_grads
from jaxtyping import jaxtyped

from attnseg_jax.ops.attention.ema import em_attention

B, N, C, K = 2, 11, 5, 3
RNG = np.random.default_rng(0)
X, MU = (RNG.standard_normal(shape).astype(np.float32) for shape in ((B, N, C), (1, C, K)))


def oracle(x, mu, stages):
    """One token and one base at a time, in float64."""
    x, mu = x.astype(np.float64), np.broadcast_to(mu, (B, C, K)).astype(np.float64)
    weights = np.zeros((B, N, K))
    for _ in range(stages):
        for i, n in np.ndindex(B, N):
            powers = [np.exp(x[i, n] @ mu[i, :, k]) for k in range(K)]
            weights[i, n] = np.array(powers) / sum(powers)
        mu = np.zeros((B, C, K))
        for i, k in np.ndindex(B, K):
            mean = sum(weights[i, n, k] * x[i, n] for n in range(N)) / (1e-6 + weights[i, :, k].sum())
            mu[i, :, k] = mean / (1e-6 + np.linalg.norm(mean))
    rebuilt = [[sum(weights[i, n, k] * mu[i, :, k] for k in range(K)) for n in range(N)] for i in range(B)]
    return np.array(rebuilt), weights, mu


@pytest.mark.parametrize("stages", [1, 4])
def test_equals_the_oracle(stages):
    found = jaxtyped(typechecker=beartype)(em_attention)(jnp.asarray(X), jnp.asarray(MU), stages=stages)
    for value, expected in zip(found, oracle(X, MU, stages), strict=True):
        np.testing.assert_allclose(value, expected, atol=3e-6)


def test_bases_of_each_image():
    own = np.concatenate([MU, 2 * MU])
    both = em_attention(jnp.asarray(X), jnp.asarray(own))
    for i in range(B):
        alone = em_attention(jnp.asarray(X[i : i + 1]), jnp.asarray(own[i : i + 1]))
        for value, expected in zip(alone, both, strict=True):
            np.testing.assert_allclose(value[0], expected[i], atol=1e-6)


def test_gradients():
    check_grads(
        jax.jit(lambda *t: em_attention(*t, stages=2)), (X, MU), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2
    )


def test_bfloat16_inputs_are_computed_in_float32():
    x, mu = jnp.asarray(X, jnp.bfloat16), jnp.asarray(MU, jnp.bfloat16)
    expected = oracle(np.asarray(x, np.float32), np.asarray(mu, np.float32), 3)
    for value, exact in zip(em_attention(x, mu), expected, strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact, atol=3e-6)


def test_no_stage():
    with pytest.raises(ValueError, match="stages=0"):
        em_attention(jnp.asarray(X), jnp.asarray(MU), stages=0)


@pytest.mark.thorough
def test_a_base_of_zeros_has_a_gradient():
    gradient = jax.grad(lambda x: em_attention(x, jnp.asarray(MU))[0].sum())(jnp.zeros((B, N, C)))
    assert np.isfinite(gradient).all()
