"""Attention without a softmax against a float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from attnseg_jax.ops.attention.non_local import dot_product_average

B, N, M, A, D, E = 2, 5, 7, 3, 4, 6


def draw(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((B, N, A, D), (B, M, A, D), (B, M, A, E))]


def test_equals_the_oracle():
    q, k, v = (np.asarray(t, np.float64) for t in draw())
    expected = np.zeros((B, N, A, E))
    for b, n, a in np.ndindex(B, N, A):
        expected[b, n, a] = sum((q[b, n, a] @ k[b, m, a]) * v[b, m, a] for m in range(M)) / M
    np.testing.assert_allclose(dot_product_average(*draw()), expected, atol=2e-6)


def test_gradients():
    check_grads(dot_product_average, draw(), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


def test_no_array_of_all_pairs_exists():
    q, k, v = draw()
    q, k, v = (jnp.tile(t, (1, 40, 1, 1)) for t in (q, k, v))
    jaxpr = jax.make_jaxpr(dot_product_average)(q, k, v)
    largest = max(variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars)
    assert largest <= v.size < q.shape[1] * k.shape[1]


def test_bfloat16_sums_in_float32():
    """A running sum in bfloat16 would stop growing at 256."""
    one = jnp.ones((1, 1000, 1, 1), jnp.bfloat16)
    y = dot_product_average(one[:, :1], one, one)
    assert y.dtype == jnp.bfloat16 and y.item() == 1.0
