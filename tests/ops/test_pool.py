"""Pooling against XLA's window reductions and float64 loops, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from attnseg_jax.ops import pool


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


WINDOWS = {
    "3/2 padded": ((3, 3), (2, 2), (1, 1)),
    "2": ((2, 2), (2, 2), (0, 0)),
    "uneven": ((2, 5), (3, 1), (1, 2)),
    "gaps": ((1, 2), (2, 4), (0, 1)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_max_pool_equals_reduce_window(name):
    kernel, stride, padding = WINDOWS[name]
    x = draw(2, 11, 13, 5)

    def windowed(x):
        pads = ((0, 0), *((p, p) for p in padding), (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *stride, 1), pads)

    theirs, pull = jax.vjp(jax.jit(windowed), x)
    ours, push = jax.vjp(jax.jit(lambda x: pool.max_pool(x, kernel, stride, padding)), x)
    np.testing.assert_array_equal(ours, theirs)
    g = draw(*theirs.shape, seed=1)
    np.testing.assert_allclose(push(g)[0], pull(g)[0], atol=1e-6)


def test_the_first_of_equal_maxima_takes_the_gradient():
    gradient = jax.jit(jax.grad(lambda x: pool.max_pool(x, 3, 1).sum()))(jnp.zeros((1, 3, 3, 1)))
    assert gradient.ravel().tolist() == [1] + 8 * [0]
    x = jnp.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).reshape(1, 3, 3, 1)
    gradient = jax.jit(jax.grad(lambda x: pool.max_pool(x, 3, 1).sum()))(x)
    assert gradient.ravel().tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 0]


def test_nan_wins_wherever_it_stands():
    for place in range(4):
        x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
        assert np.isnan(pool.max_pool(x, 2)).all()


def largest(x, kernel, stride, padding):
    """Every window by itself, the last one partly outside too, from PyTorch's documentation of `ceil_mode`."""
    starts = []
    for n, k, s, p in zip(x.shape[1:3], kernel, stride, padding):
        full = list(range(-p, n + p - k + 1, s))
        partial = full[-1] + k < n + p and full[-1] + s < n
        starts.append(full + [full[-1] + s] * partial)
    out = np.zeros((len(x), len(starts[0]), len(starts[1]), x.shape[-1]))
    for i, top in enumerate(starts[0]):
        for j, left in enumerate(starts[1]):
            rows, columns = slice(max(top, 0), top + kernel[0]), slice(max(left, 0), left + kernel[1])
            out[:, i, j] = x[:, rows, columns].max((1, 2))
    return out


@pytest.mark.parametrize("name", WINDOWS)
def test_max_pool_in_ceil_mode_equals_a_loop(name):
    kernel, stride, padding = WINDOWS[name]
    x = draw(2, 10, 13, 3)
    found = jax.jit(lambda x: pool.max_pool(x, kernel, stride, padding, ceil_mode=True))(x)
    np.testing.assert_array_equal(found, largest(np.asarray(x), kernel, stride, padding))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (11, 7), (13, 20)])
def test_adaptive_pool_equals_a_loop(size):
    x = draw(2, 11, 13, 3)
    mean = np.zeros((2, *size, 3))
    for i, j in np.ndindex(size):
        rows = slice(int(np.floor(i * 11 / size[0])), int(np.ceil((i + 1) * 11 / size[0])))
        columns = slice(int(np.floor(j * 13 / size[1])), int(np.ceil((j + 1) * 13 / size[1])))
        mean[:, i, j] = np.asarray(x, np.float64)[:, rows, columns].mean((1, 2))
    found = jax.jit(lambda x: pool.adaptive_avg_pool(x, size))(x)
    np.testing.assert_allclose(found, mean, atol=1e-6)


POOLS = {
    "max": jax.jit(lambda x: pool.max_pool(x, 3, 2, 1, ceil_mode=True)),
    "adaptive_avg": jax.jit(lambda x: pool.adaptive_avg_pool(x, (3, 2))),
}


@pytest.mark.parametrize("name", POOLS)
def test_gradients_vmap_and_bfloat16(name):
    # Distinct values far apart, so that a finite difference changes no maximum.
    x = jnp.asarray(np.random.default_rng(0).permutation(7 * 5 * 2), jnp.float32).reshape(1, 7, 5, 2) / 10
    check_grads(POOLS[name], (x,), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)
    stacked = jnp.stack([x, -x, x**2])
    np.testing.assert_allclose(
        jax.vmap(POOLS[name])(stacked), jnp.stack([POOLS[name](t) for t in stacked]), rtol=1e-6, atol=1e-6
    )
    low = POOLS[name](x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), POOLS[name](x), rtol=2**-7)


def test_impossible_windows():
    x = draw(1, 3, 4, 1)
    with pytest.raises(ValueError, match="half the kernel"):
        pool.max_pool(x, 3, 2, 2)
    with pytest.raises(ValueError, match="does not fit"):
        pool.max_pool(x, 5)
