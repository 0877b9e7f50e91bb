"""The encoding layer against a float64 oracle, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jax.test_util import check_grads
from jaxtyping import jaxtyped

from attnseg_jax.ops.attention.encnet import encode

B, N, C, K = 2, 11, 5, 3
RNG = np.random.default_rng(0)
X, CODEWORDS, SCALE = (
    RNG.standard_normal(shape).astype(np.float32) * size for shape, size in (((B, N, C), 1), ((K, C), 0.5), ((K,), 0.3))
)


def oracle(x, codewords, scale):
    """One token and one codeword at a time, in float64."""
    x, codewords, scale = (np.asarray(t, np.float64) for t in (x, codewords, scale))
    y, weights = np.zeros((B, K, C)), np.zeros((B, N, K))
    for i, n in np.ndindex(B, N):
        powers = [np.exp(scale[k] * ((x[i, n] - codewords[k]) ** 2).sum()) for k in range(K)]
        weights[i, n] = np.array(powers) / sum(powers)
        for k in range(K):
            y[i, k] += weights[i, n, k] * (x[i, n] - codewords[k])
    return y, weights


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_equals_the_oracle(dtype):
    """From bfloat16 tokens too: all is computed in float32."""
    x = jnp.asarray(X, dtype)
    found = jaxtyped(typechecker=beartype)(encode)(x, jnp.asarray(CODEWORDS), jnp.asarray(SCALE))
    for value, expected in zip(found, oracle(np.asarray(x, np.float32), CODEWORDS, SCALE), strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, atol=5e-6)


def test_gradients():
    check_grads(jax.jit(encode), (X, CODEWORDS, SCALE), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


def test_products_are_in_full_precision_whatever_the_default_is():
    with jax.default_matmul_precision("bfloat16"):
        jaxpr = jax.make_jaxpr(encode)(X, CODEWORDS, SCALE)
    products = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
    assert [e.params["precision"] for e in products] == [(jax.lax.Precision.HIGHEST,) * 2] * 2
