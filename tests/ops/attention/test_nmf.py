"""Non-negative factorisation of tokens: a float64 oracle, finite differences, what it converges to, the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from attnseg_jax.ops.attention.nmf import nmf_attention

RNG = np.random.default_rng(0)
X = RNG.random((2, 11, 5)).astype(np.float32)
BASES = RNG.random((2, 5, 3)).astype(np.float32)


def oracle(x, bases, steps):
    """One image, float64, written with tokens in columns as the paper has them."""
    x, d = x.T.astype(np.float64), bases.astype(np.float64)
    d = d / np.linalg.norm(d, axis=0)
    c = np.exp(d.T @ x)
    c = c / c.sum(0)
    for _ in range(steps):
        c = c * (d.T @ x) / (d.T @ d @ c + 1e-6)
        d = d * (x @ c.T) / (d @ c @ c.T + 1e-6)
    c = c * (d.T @ x) / (d.T @ d @ c + 1e-6)
    return (d @ c).T, c.T


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("shared", [True, False])
def test_against_numpy(steps, shared):
    bases = BASES[:1] if shared else BASES
    y, coefficients = nmf_attention(X, bases, steps=steps)
    for i in range(2):
        expected, shares = oracle(X[i], bases[0 if shared else i], steps)
        np.testing.assert_allclose(y[i], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(coefficients[i], shares, rtol=1e-4, atol=1e-6)


def test_every_step_comes_nearer_to_the_tokens():
    errors = [float(jnp.square(nmf_attention(X, BASES, steps=n)[0] - X).sum()) for n in range(6)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7 * errors[0]


def test_gradients():
    check_grads(functools.partial(nmf_attention, steps=3), (X, BASES), 1, ("rev",), eps=1e-2, rtol=2e-2, atol=1e-3)


def test_the_gradient_of_the_last_step_alone():
    """With the fitted bases held still the tokens reach the result through one update of the coefficients."""
    weights = RNG.standard_normal(X.shape).astype(np.float32)

    def total(x, **options):
        return (nmf_attention(x, BASES, steps=3, **options)[0] * weights).sum()

    one = jax.grad(functools.partial(total, one_step_gradient=True))(X)
    for i in range(2):
        d = BASES[i].astype(np.float64) / np.linalg.norm(BASES[i].astype(np.float64), axis=0)
        c = np.exp(X[i] @ d)
        c = c / c.sum(1, keepdims=True)
        for _ in range(3):
            c = c * (X[i] @ d) / (c @ d.T @ d + 1e-6)
            d = d * (X[i].T @ c) / (d @ c.T @ c + 1e-6)
        expected = (weights[i] @ d * c / (c @ d.T @ d + 1e-6)) @ d.T
        np.testing.assert_allclose(one[i], expected, rtol=1e-4, atol=1e-5)
    assert abs(one - jax.grad(total)(X)).max() > 1e-2


def test_zeros_have_a_value_and_a_gradient():
    zero = np.zeros_like(X)
    assert np.abs(nmf_attention(zero, BASES, steps=2)[0]).max() == 0
    assert np.isfinite(jax.grad(lambda x: nmf_attention(x, BASES, steps=2)[0].sum())(zero)).all()
    with pytest.raises(ValueError, match="steps=-1"):
        nmf_attention(X, BASES, steps=-1)
