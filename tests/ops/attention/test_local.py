"""Neighbourhood attention against one pixel at a time in float64, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from neighbourhood import local_attention

from attnseg_jax.ops.attention import local

B, H, W, A, D, E = 2, 5, 8, 3, 4, 6


def draw(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal((B, H, W, A, width)), dtype) for width in (D, D, E)]


def oracle(q, k, v, kernel, dilation, scale=None):
    """One query of one head at a time, in float64: its output, and its weights in the same order as its keys."""
    q, k, v = (np.asarray(t, np.float64) for t in (q, k, v))
    out, weights = np.zeros(v.shape), np.zeros((kernel**2, *v.shape[:4]))
    radius = kernel // 2
    for i, y, x, a in np.ndindex(v.shape[:4]):
        seen = {}
        for s, (dy, dx) in enumerate(np.ndindex(kernel, kernel)):
            there = (y + dilation * (dy - radius), x + dilation * (dx - radius))
            if 0 <= there[0] < v.shape[1] and 0 <= there[1] < v.shape[2]:
                score = q[i, y, x, a] @ k[i, *there, a] * (q.shape[-1] ** -0.5 if scale is None else scale)
                seen[s] = (np.exp(score), v[i, *there, a])
        total = sum(power for power, _ in seen.values())
        for s, (power, value) in seen.items():
            weights[s, i, y, x, a] = power / total
            out[i, y, x, a] += power / total * value
    return out, weights


@pytest.mark.thorough
@pytest.mark.parametrize("kernel, dilation, scale", [(3, 1, None), (5, 2, 0.3), (7, 1, None), (1, 1, None)])
def test_equals_the_oracle(kernel, dilation, scale):
    q, k, v = draw()
    out, weights = oracle(q, k, v, kernel, dilation, scale)
    options = dict(kernel=kernel, dilation=dilation, scale=scale)
    np.testing.assert_allclose(local_attention(q, k, v, **options), out, atol=2e-6)
    np.testing.assert_allclose(local.local_weights(q, k, **options), weights, atol=1e-6)


def around(kernel, dilation):
    """Of each pixel: where it is in a map, and where its neighbourhood is."""
    reach = [dilation * i for i in range(-(kernel // 2), kernel // 2 + 1)]
    for y, x in np.ndindex(H, W):
        rows, columns = ([i + step for step in reach if 0 <= i + step < n] for i, n in ((y, H), (x, W)))
        yield (slice(None), y, x), np.ix_(range(B), rows, columns)


# The last sees nothing in its column but the pixel itself.
NEIGHBOURHOODS = [(3, 1), (5, 2), (3, 3), (7, 1), (3, 5)]


@pytest.mark.parametrize("size", [1, 40])
@pytest.mark.parametrize("kernel, dilation", NEIGHBOURHOODS)
def test_weights_are_shares(kernel, dilation, size):
    """Not below 0, together 1 at borders and in corners too, and nothing outside; of large scores as of small ones."""
    q, k, _ = draw()
    weights = np.asarray(local.local_weights(size * q, k, kernel=kernel, dilation=dilation), np.float64)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(0), np.ones((B, H, W, A)), atol=1e-6)
    outside = np.asarray(local.local_keys((H, W), kernel, dilation)).reshape(H, W, -1).transpose(2, 0, 1) < 0
    assert outside.any() and not weights[outside[:, None].repeat(B, 1)].any()


@pytest.mark.parametrize("size", [1, 40])
@pytest.mark.parametrize("kernel, dilation", NEIGHBOURHOODS)
def test_averages_stay_within_the_range_of_their_neighbourhood(kernel, dilation, size):
    """Again and again, each time within what the time before left there; the same everywhere stays the same."""
    q, k, v = draw()
    weights = local.local_weights(size * q, k, kernel=kernel, dilation=dilation)
    for _ in range(3):
        before, v = np.asarray(v), local.local_average(weights, v, dilation=dilation)
        for here, there in around(kernel, dilation):
            seen, found = before[there], np.asarray(v)[here]
            assert (found <= seen.max((1, 2)) + 1e-5).all() and (found >= seen.min((1, 2)) - 1e-5).all()
    same = local.local_average(weights, jnp.full_like(v, 3.5), dilation=dilation)
    np.testing.assert_allclose(same, np.full(same.shape, 3.5), rtol=1e-6)


def test_keys():
    keys = np.asarray(local.local_keys((H, W), 5, 2))
    assert keys.shape == (H * W, 25)
    for n, s in np.ndindex(*keys.shape):
        y, x = n // W + 2 * (s // 5 - 2), n % W + 2 * (s % 5 - 2)
        assert keys[n, s] == (y * W + x if 0 <= y < H and 0 <= x < W else -1)


def test_gradients():
    function = functools.partial(local_attention, kernel=3, dilation=2)
    check_grads(jax.jit(function), draw(), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


def test_what_lies_outside_the_neighbourhood_has_exactly_zero_gradient():
    q, k, v = draw()
    y, x = 3, 2

    def loss(k, v):
        return (local_attention(q, k, v, kernel=3, dilation=2)[:, y, x] ** 2).sum()

    seen = np.zeros((H, W), bool)
    seen[np.ix_([1, 3], [0, 2, 4])] = True  # row 5 is outside
    for gradient in jax.jit(jax.grad(loss, argnums=(0, 1)))(k, v):
        assert (gradient[:, ~seen] == 0).all() and (gradient[:, seen] != 0).all()


def test_vmap_equals_a_loop():
    stacked = [jnp.stack([t, 2 * t, -t]) for t in draw()]
    function = jax.jit(functools.partial(local_attention, kernel=3))
    looped = jnp.stack([function(*[t[i] for t in stacked]) for i in range(3)])
    # Two roundings at the size of each value, of which the largest is above 4.
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(*stacked), looped, rtol=1e-6, atol=1e-6)


def test_half_precision():
    exact = local_attention(*[t.astype(jnp.float32) for t in draw(dtype=jnp.bfloat16)], kernel=3)
    found = local_attention(*draw(dtype=jnp.bfloat16), kernel=3)
    assert (
        found.dtype == jnp.bfloat16 and local.local_weights(*draw(dtype=jnp.bfloat16)[:2], kernel=3).dtype == "float32"
    )
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.01)


def test_memory_is_linear_in_pixels():
    """Compiled, not run: weights and a few copies of the channels, never a copy of the channels per neighbour."""

    def loss(q, k, v):
        return (local_attention(q, k, v, kernel=7) ** 2).sum()

    def temp(n):
        x = jax.ShapeDtypeStruct((1, n, n, 2, 32), jnp.float32)
        compiled = [jax.jit(f).lower(x, x, x).compile() for f in (loss, jax.grad(loss, argnums=(0, 1, 2)))]
        return np.array([c.memory_analysis().temp_size_in_bytes for c in compiled])

    small, large = temp(64), temp(128)
    pixels = 128**2
    assert (large < 4.3 * small).all()
    channels, weights = 4 * pixels * 64, 4 * pixels * 2 * 49
    assert large[0] < 3 * channels + 3 * weights and large[1] < 8 * channels + 6 * weights
    assert (large < pixels**2 * 4 / 10).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda q, v: local.local_weights(q, v, kernel=3), "do not fit"),
        (lambda q, v: local.local_weights(q, q, kernel=4), "odd kernel"),
        (lambda q, v: local.local_weights(q, q, kernel=3, dilation=0), "dilation of at least 1"),
        (lambda q, v: local.local_average(jnp.ones((8, B, H, W, A)), v), "do not fit"),
    ],
)
def test_mistakes(call, message):
    q, _, v = draw()
    with pytest.raises(ValueError, match=message):
        call(q, v)
