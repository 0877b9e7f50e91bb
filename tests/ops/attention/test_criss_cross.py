"""Criss-cross attention against one pixel at a time in float64, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from attnseg_jax.ops.attention import criss_cross

B, H, W, D, E = 2, 5, 8, 4, 6

attend = jax.jit(criss_cross.criss_cross_attention, static_argnames="scale")


def draw(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal((B, H, W, width)), dtype) for width in (D, D, E)]


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_equals_the_oracle(scale):
    q, k, v = draw()
    weights, keys = np.asarray(criss_cross.criss_cross_weights(q, k, scale=scale)), criss_cross.criss_cross_keys((H, W))
    found = np.asarray(attend(q, k, v, scale=scale))
    q, k, v = (np.asarray(t, np.float64) for t in (q, k, v))
    for i, y, x in np.ndindex(B, H, W):
        seen = {(y, x), *((g, x) for g in range(H)), *((y, u) for u in range(W))}
        assert len(seen) == H + W - 1
        powers = {at: np.exp(scale * q[i, y, x] @ k[i, *at]) for at in seen}
        total = sum(powers.values())
        expected = sum(power * v[i, *at] for at, power in powers.items()) / total
        np.testing.assert_allclose(found[i, y, x], expected, atol=3e-6)
        shown = {divmod(int(key), W): w for key, w in zip(keys[y * W + x], weights[i, y, x]) if key >= 0}
        assert sorted(shown) == sorted(seen)
        np.testing.assert_allclose([shown[at] for at in seen], [powers[at] / total for at in seen], atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)


def test_gradients():
    check_grads(attend, draw(), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


@pytest.mark.thorough
@pytest.mark.parametrize("size", [(1, 6), (6, 1), (1, 1)])
def test_maps_of_one_line(size):
    q = jnp.ones((1, *size, 3))
    np.testing.assert_allclose(attend(q, q, q), np.ones((1, *size, 3)), rtol=1e-6)
    gradient = jax.grad(lambda q: (attend(q, q, q) ** 2).sum())(q)
    assert np.isfinite(gradient).all()


def test_vmap_equals_a_loop():
    stacked = [jnp.stack([t, 2 * t, -t]) for t in draw()]
    looped = jnp.stack([attend(*[t[i] for t in stacked]) for i in range(3)])
    np.testing.assert_allclose(jax.jit(jax.vmap(attend))(*stacked), looped, atol=1e-6)


def test_half_precision():
    exact = attend(*[t.astype(jnp.float32) for t in draw(dtype=jnp.bfloat16)])
    found = attend(*draw(dtype=jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert criss_cross.criss_cross_weights(*draw(dtype=jnp.bfloat16)[:2]).dtype == jnp.float32
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.03)


@pytest.mark.thorough
def test_memory_grows_as_pixels_times_lines():
    """Compiled, not run: 8 times as much for 4 times the pixels, where all pairs would take 16 times."""

    def loss(q, k, v):
        return (criss_cross.criss_cross_attention(q, k, v) ** 2).sum()

    def temp(n):
        q, v = (jax.ShapeDtypeStruct((1, n, n, width), jnp.float32) for width in (8, 32))
        compiled = [jax.jit(f).lower(q, q, v).compile() for f in (loss, jax.grad(loss, argnums=(0, 1, 2)))]
        return np.array([c.memory_analysis().temp_size_in_bytes for c in compiled])

    small, large = temp(64), temp(128)
    assert (large < 8.2 * small).all()
    assert (large < 128**4 * 4 / 15).all()


@pytest.mark.parametrize("other", ["k", "v"])
def test_mistakes(other):
    q, k, v = draw()
    with pytest.raises(ValueError, match="do not fit"):
        attend(q, k if other == "v" else k[..., :2], v[:, :2] if other == "v" else v)
