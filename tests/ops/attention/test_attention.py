"""Dot-product attention against a float64 oracle and by its properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from attnseg_jax.ops import attention
from attnseg_jax.ops.attention.chunked import chunked

B, N, M, A, D, E = 2, 5, 7, 3, 4, 6

attend = jax.jit(attention.dot_product_attention, static_argnames=("scale", "impl"))
# Two queries at a time: 5 queries in 3 blocks, of which the last repeats one.
WAYS = {
    "dense": functools.partial(attend, impl="dense"),
    "chunked": functools.partial(attend, impl="chunked"),
    "blocks of 2": jax.jit(functools.partial(chunked, rows=2), static_argnames="scale"),
}
every_way = pytest.mark.parametrize("attend", WAYS.values(), ids=list(WAYS))
both_ways = pytest.mark.parametrize("attend", [WAYS["dense"], WAYS["blocks of 2"]], ids=["dense", "blocks of 2"])
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
        powers = [np.exp(score - max(scores)) if mask[i, h, t, s] else 0.0 for s, score in enumerate(scores)]
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
    "query bias": {"bias": draw(1)[3][:, :1, :, :1], "mask": jnp.asarray(MASK[:1, :, :1])},
    "mask": {"mask": jnp.asarray(MASK)},
    "key mask": {"mask": jnp.asarray(MASK[:, :1, :1])},
    "all": {"mask": jnp.asarray(MASK), "bias": draw(1)[3][:, :1], "scale": 1.7},
}


@every_way
@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(case, attend):
    q, k, v, _ = draw()
    out, _ = oracle(q, k, v, **CASES[case])
    np.testing.assert_allclose(attend(q, k, v, **CASES[case]), out, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_weights_equal_the_oracle(case):
    q, k, v, _ = draw()
    _, weights = oracle(q, k, v, **CASES[case])
    np.testing.assert_allclose(weigh(q, k, **CASES[case]), weights, atol=1e-6)


@both_ways
@pytest.mark.parametrize("case", ["bias", "head bias", "all"])
def test_gradients(case, attend):
    q, k, v, _ = draw()
    fixed = {name: value for name, value in CASES[case].items() if name != "bias"}

    def function(q, k, v, bias):
        return attend(q, k, v, bias=bias, **fixed)

    check_grads(
        jax.jit(function), (q, k, v, CASES[case]["bias"]), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2
    )


def gradient_oracle(direction, q, k, v, bias=None, mask=None, scale=None):
    """Gradients of `(direction * attention).sum()` in float64, from the weights of `oracle`."""
    _, p = oracle(q, k, v, bias, mask, scale)
    q, k, v, g = (np.asarray(t, np.float64) for t in (q, k, v, direction))
    d_p = np.einsum("bnae,bmae->banm", g, v)
    d_s = p * (d_p - (p * d_p).sum(-1, keepdims=True))
    scale = D**-0.5 if scale is None else scale
    gradients = {
        "q": scale * np.einsum("banm,bmad->bnad", d_s, k),
        "k": scale * np.einsum("banm,bnad->bmad", d_s, q),
        "v": np.einsum("banm,bnae->bmae", p, g),
    }
    if bias is not None:
        shared = tuple(axis for axis, size in enumerate(bias.shape) if size == 1)
        gradients["bias"] = d_s.sum(shared, keepdims=True)
    return gradients


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["dense", "chunked", "blocks of 2"])
@pytest.mark.parametrize("case", ["plain", "query bias", "all"])
def test_gradients_equal_the_oracle(case, way):
    """Tighter than finite differences can be."""
    q, k, v, _ = draw(4)
    arrays = {"q": q, "k": k, "v": v, **{name: x for name, x in CASES[case].items() if name == "bias"}}
    fixed = {name: x for name, x in CASES[case].items() if name != "bias"}
    direction = jnp.asarray(np.random.default_rng(9).standard_normal((B, N, A, E)), jnp.float32)
    expected = gradient_oracle(direction, **arrays, **fixed)
    found = jax.jit(jax.grad(lambda arrays: (WAYS[way](**arrays, **fixed) * direction).sum()))(arrays)
    assert sorted(found) == sorted(expected)
    for name, gradient in found.items():
        # A bias of one number for each query has no influence, and only rounding for a gradient.
        error = abs(gradient - expected[name]).max() / max(1.0, abs(expected[name]).max())
        assert error < 5e-6, name


@pytest.mark.thorough
@both_ways
def test_an_empty_row_gives_zeros_and_finite_zero_gradients(attend):
    q, k, v, bias = draw()
    empty = np.zeros((B, A, N, M), bool)
    mask = jnp.asarray(~empty).at[1, :, 3].set(False)
    assert (attend(q, k, v, mask=mask)[1, 3] == 0).all()

    def loss(q, k, v, bias, mask):
        return (attend(q, k, v, bias=bias, mask=mask) ** 2).sum()

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
    gradients = gradient(q, k, v, bias, mask)
    assert all(np.isfinite(g).all() for g in gradients)
    assert (gradients[0][1, 3] == 0).all() and (gradients[3][1, :, 3] == 0).all()
    assert (gradients[0][1, 2] != 0).all() and (gradients[3][1, :, 2] != 0).all()
    assert all((g == 0).all() for g in gradient(q, k, v, bias, jnp.asarray(empty)))
    shut = jnp.full((1, 1, 1, M), -jnp.inf)
    assert (attend(q, k, v, bias=shut) == 0).all()
    assert all((g == 0).all() for g in gradient(q, k, v, shut, ~jnp.asarray(empty)))


def test_weights_of_an_empty_row_are_zero():
    q, k, _v, _ = draw()
    mask = jnp.ones((B, A, N, M), bool).at[1, :, 3].set(False)
    assert (weigh(q, k, mask=mask)[1, :, 3] == 0).all()


@both_ways
def test_masked_keys_get_exactly_zero_gradient(attend):
    q, k, v, _ = draw()
    mask = jnp.asarray(np.arange(M).reshape(1, 1, 1, M) < 4)

    def loss(k, v):
        return (attend(q, k, v, mask=mask) ** 2).sum()

    gk, gv = jax.jit(jax.grad(loss, argnums=(0, 1)))(k, v)
    assert (gk[:, 4:] == 0).all() and (gv[:, 4:] == 0).all()
    assert (gk[:, :4] != 0).all() and (gv[:, :4] != 0).all()


@both_ways
def test_tokens_permute(attend):
    q, k, v, _ = draw()
    out = attend(q, k, v)
    rows, keys = np.random.default_rng(2).permutation(N), np.random.default_rng(3).permutation(M)
    permuted = attend(q[:, rows], k[:, keys], v[:, keys])
    np.testing.assert_allclose(permuted, out[:, rows], atol=1e-6)
    assert not np.allclose(attend(q, k[:, keys], v), out, atol=1e-2)


@both_ways
def test_vmap_equals_a_loop(attend):
    """Results and gradients, the bias mapped over as well."""
    stacked = [jnp.stack([t, 2 * t, -t]) for t in draw()]

    def function(q, k, v, bias):
        return jax.value_and_grad(lambda bias: (attend(q, k, v, bias=bias) ** 2).sum())(bias)

    compiled = jax.jit(function)
    loops = [compiled(*[t[i] for t in stacked]) for i in range(3)]
    looped = jax.tree.map(lambda *x: jnp.stack(x), *loops)
    mapped = jax.jit(jax.vmap(function))(*stacked)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), mapped, looped)


@both_ways
def test_large_scores_do_not_overflow(attend):
    q, k, v, _ = draw()
    out, weights = oracle(1e3 * q, 1e3 * k, v)
    np.testing.assert_allclose(weigh(1e3 * q, 1e3 * k), weights, atol=1e-6)
    np.testing.assert_allclose(attend(1e3 * q, 1e3 * k, v), out, atol=1e-5)
    gradients = jax.jit(jax.grad(lambda *x: attend(*x).sum(), argnums=(0, 1, 2)))(1e3 * q, 1e3 * k, v)
    assert all(np.isfinite(g).all() for g in gradients)


@both_ways
def test_softmax_is_float32_under_bfloat16(attend):
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
