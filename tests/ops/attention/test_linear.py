"""Linear attention against float64 weights of every pair, and by its properties."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jax.test_util import check_grads
from jaxtyping import jaxtyped

from attnseg_jax.ops.attention import linear as linear

B, N, M, A, D, E = 2, 5, 7, 3, 4, 6
attend = jax.jit(linear.linear_attention, static_argnames="form")


@functools.partial(jax.jit, static_argnames="form")
def weigh(q, k, form):
    return jnp.einsum("bnad,bmad->banm", *linear.linear_factors(q, k, form=form))


def draw(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((B, N, A, D), (B, M, A, D), (B, M, A, E))]


def oracle(q, k, v, form):
    """One query of one head at a time, over explicit weights of its keys."""
    q, k, v = (np.asarray(t, np.float64) for t in (q, k, v))
    weights, out = np.zeros((B, A, N, M)), np.zeros((B, N, A, E))

    def kernel(x):
        return np.where(x > 0, x + 1, np.exp(x))

    for i, h, t in np.ndindex(B, A, N):
        query = q[i, t, h]
        if form == "elu":
            row = np.array([kernel(query) @ kernel(k[i, s, h]) for s in range(M)])
            row = row / row.sum()
        elif form == "relu":
            row = np.array([np.maximum(query, 0) @ np.maximum(k[i, s, h], 0) for s in range(M)])
            row = row / (row.sum() + 1e-5)
        else:
            regions = np.array([np.exp(k[i, :, h, c]) / np.exp(k[i, :, h, c]).sum() for c in range(D)])
            row = np.exp(query) / np.exp(query).sum() @ regions
        weights[i, h, t] = row
        out[i, t, h] = sum(row[s] * v[i, s, h] for s in range(M))
    return out, weights


@pytest.mark.parametrize("form", linear.FORMS)
def test_equals_the_oracle(form):
    q, k, v = draw()
    out, weights = oracle(q, k, v, form)
    np.testing.assert_allclose(attend(q, k, v, form=form), out, atol=2e-6)
    np.testing.assert_allclose(weigh(q, k, form=form), weights, atol=1e-6)


@pytest.mark.parametrize("form", linear.FORMS)
def test_gradients(form):
    function = jax.jit(lambda *args: linear.linear_attention(*args, form=form))
    # Where ReLU has no corner.
    arrays = [x + 0.5 * jnp.sign(x) for x in draw()] if form == "relu" else draw()
    check_grads(function, arrays, order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("form", linear.FORMS)
def test_no_array_of_all_pairs(form):
    """With 4096 tokens the compiled program takes far less than the 64 MiB of one head's weights."""
    x = jax.ShapeDtypeStruct((1, 4096, 1, 8), jnp.float32)
    gradient = jax.grad(lambda *args: linear.linear_attention(*args, form=form).sum(), argnums=(0, 1, 2))
    assert jax.jit(gradient).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes < 4 * 2**20


@pytest.mark.parametrize("form", linear.FORMS)
def test_bfloat16_inputs_are_computed_in_float32(form):
    """4096 nearly equal keys: sums in bfloat16 would stop at 256."""
    q, m = abs(draw(jnp.bfloat16)[0]), 4096
    k, v = jnp.ones((B, m, A, D), jnp.bfloat16), jnp.ones((B, m, A, E), jnp.bfloat16).at[:, ::2].set(3)
    out = attend(q, k, v, form=form)
    assert out.dtype == jnp.bfloat16 and weigh(q, k, form=form).dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(out, np.float32), 2.0, rtol=2**-8)


@pytest.mark.parametrize("form", linear.FORMS)
@pytest.mark.parametrize("value", [-200.0, 200.0])
def test_extreme_tokens_stay_finite(form, value):
    q, k, v = draw()
    gradients = jax.jit(jax.grad(lambda *t: attend(*t, form=form).sum(), argnums=(0, 1, 2)))(value + q, value + k, v)
    assert all(np.isfinite(g).all() for g in gradients)


def test_bad_arguments():
    q, k, v = draw()
    with pytest.raises(ValueError, match="unknown form 'cosine', known: elu, softmax, relu"):
        linear.linear_attention(q, k, v, form="cosine")
    with pytest.raises(ValueError, match=r"queries .* do not fit"):
        linear.linear_factors(q, k[..., 1:])


def test_annotations():
    calls = {"linear_attention": draw(), "linear_factors": draw()[:2]}
    public = [f for f in vars(linear).values() if inspect.isfunction(f) and not f.__name__.startswith("_")]
    assert sorted(f.__name__ for f in public) == sorted(calls)
    for function in public:
        jaxtyped(typechecker=beartype)(function)(*calls[function.__name__])
