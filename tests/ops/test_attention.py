"""Dot-product attention against a float64 oracle and by its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from attnseg_jax.ops import attention

B, N, M, A, D, E = 2, 5, 7, 3, 4, 6

attend = jax.jit(attention.dot_product_attention, static_argnames="scale")
weigh = jax.jit(attention.attention_weights, static_argnames="scale")


def draw(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = [(B, N, A, D), (B, M, A, D), (B, M, A, E), (B, A, N, M)]
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def oracle(q, k, v, bias=None, mask=None, scale=None):
    """One query of one head at a time, in float64."""
    q, k, v = (np.asarray(t, np.float64) for t in (q, k, v))
    (b, n, a, d), m = q.shape, k.shape[1]
    bias = np.broadcast_to(0.0 if bias is None else np.asarray(bias, np.float64), (b, a, n, m))
    mask = np.broadcast_to(True if mask is None else np.asarray(mask), (b, a, n, m))
    weights, out = np.zeros((b, a, n, m)), np.zeros((b, n, a, v.shape[-1]))
    for i, h, t in np.ndindex(b, a, n):
        scores = [q[i, t, h] @ k[i, s, h] * (d**-0.5 if scale is None else scale) + bias[i, h, t, s] for s in range(m)]
        powers = [np.exp(score) if mask[i, h, t, s] else 0.0 for s, score in enumerate(scores)]
        if any(mask[i, h, t]):
            weights[i, h, t] = np.array(powers) / sum(powers)
        out[i, t, h] = sum(weights[i, h, t, s] * v[i, s, h] for s in range(m))
    return out, weights


MASK = np.random.default_rng(5).random((B, A, N, M)) < 0.6
MASK[1, 2, 3] = False  # a query that may attend to nothing
CASES = {
    "plain": {},
    "scale": {"scale": 0.3},
    "bias": {"bias": draw(1)[3]},
    "head bias": {"bias": draw(1)[3][:1, :, :1]},
    "mask": {"mask": jnp.asarray(MASK)},
    "key mask": {"mask": jnp.asarray(MASK[:, :1, :1])},
    "all": {"mask": jnp.asarray(MASK), "bias": draw(1)[3][:, :1], "scale": 1.7},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(case):
    q, k, v, _ = draw()
    out, weights = oracle(q, k, v, **CASES[case])
    np.testing.assert_allclose(attend(q, k, v, **CASES[case]), out, atol=2e-6)
    np.testing.assert_allclose(weigh(q, k, **CASES[case]), weights, atol=1e-6)


@pytest.mark.parametrize("case", ["bias", "all"])
def test_gradients(case):
    q, k, v, _ = draw()
    fixed = {name: value for name, value in CASES[case].items() if name != "bias"}

    def function(q, k, v, bias):
        return attend(q, k, v, bias=bias, **fixed)

    check_grads(
        jax.jit(function), (q, k, v, CASES[case]["bias"]), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2
    )


def test_an_empty_row_gives_zeros_and_finite_zero_gradients():
    q, k, v, bias = draw()
    empty = np.zeros((B, A, N, M), bool)
    mask = jnp.asarray(~empty).at[1, :, 3].set(False)
    assert (attend(q, k, v, mask=mask)[1, 3] == 0).all()
    assert (weigh(q, k, mask=mask)[1, :, 3] == 0).all()

    def loss(*args):
        return (attend(*args[:3], bias=args[3], mask=mask) ** 2).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(q, k, v, bias)
    assert all(np.isfinite(g).all() for g in gradients)
    assert (gradients[0][1, 3] == 0).all() and (gradients[3][1, :, 3] == 0).all()
    nothing = jax.jit(jax.grad(lambda q: attend(q, k, v, mask=jnp.asarray(empty)).sum()))(q)
    assert (nothing == 0).all()
    by_bias = attend(q, k, v, bias=jnp.full((1, 1, 1, M), -jnp.inf))
    assert (by_bias == 0).all()


def test_masked_keys_get_exactly_zero_gradient():
    q, k, v, _ = draw()
    mask = jnp.asarray(np.arange(M).reshape(1, 1, 1, M) < 4)

    def loss(k, v):
        return (attend(q, k, v, mask=mask) ** 2).sum()

    gk, gv = jax.jit(jax.grad(loss, argnums=(0, 1)))(k, v)
    assert (gk[:, 4:] == 0).all() and (gv[:, 4:] == 0).all()
    assert (gk[:, :4] != 0).all() and (gv[:, :4] != 0).all()


def test_tokens_permute():
    q, k, v, _ = draw()
    out = attend(q, k, v)
    rows, keys = np.random.default_rng(2).permutation(N), np.random.default_rng(3).permutation(M)
    permuted = attend(q[:, rows], k[:, keys], v[:, keys])
    np.testing.assert_allclose(permuted, out[:, rows], atol=1e-6)
    assert not np.allclose(attend(q, k[:, keys], v), out, atol=1e-2)


def test_vmap_equals_a_loop():
    stacked = [jnp.stack([t, 2 * t, -t]) for t in draw()]

    def function(q, k, v, bias):
        return attend(q, k, v, bias=bias)

    looped = jnp.stack([function(*[t[i] for t in stacked]) for i in range(3)])
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(*stacked), looped, atol=1e-6)


def test_large_scores_do_not_overflow():
    q, k, _v, _ = draw()
    weights = weigh(1e3 * q, 1e3 * k)
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)


def test_softmax_is_float32_under_bfloat16():
    """4096 nearly equal keys: in bfloat16 their scores would collapse and the sum would stop at 256."""
    m = 4096
    k = jnp.linspace(0, 1, m).astype(jnp.bfloat16).reshape(1, m, 1, 1)
    q = jnp.full((1, 1, 1, 1), 1 + 2**-7, jnp.bfloat16)
    v = jnp.ones((1, m, 1, 1), jnp.bfloat16).at[0, ::2].set(3)
    exact, weights = oracle(q, k, v)
    ours = weigh(q, k)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, weights, rtol=1e-5)
    out = attend(q, k, v)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), exact, rtol=2**-8)
    low = jax.jit(jax.nn.softmax)((q * k).reshape(m))
    assert abs(np.asarray(low, np.float64) / weights.reshape(m) - 1).max() > 1e-3  # so the bound above can fail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (B, M, A, D + 1)}, "queries"),
        ({"k": (B, M, A + 1, D)}, "queries"),
        ({"q": (B, N, D)}, "queries"),
        ({"v": (B, M + 1, A, E)}, "values"),
        ({"bias": (A, N, M)}, "bias"),
        ({"bias": (B, A, N, M + 1)}, "bias"),
    ],
)
def test_wrong_shapes(change, message):
    arrays = dict(zip("qkv", draw())) | {name: jnp.zeros(shape) for name, shape in change.items()}
    with pytest.raises(ValueError, match=message):
        attend(**arrays)


def test_a_mask_of_numbers_is_refused():
    q, k, v, bias = draw()
    with pytest.raises(ValueError, match="boolean"):
        attend(q, k, v, mask=bias)
