"""Pooling with indices and un-pooling: PyTorch's values and gradients, loops, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc

from attnseg_jax.ops import pool


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["op_segnet_pool", "op_segnet_pool_relu_ties"])
def test_pooling_and_back_as_pytorch(name):
    case = Golden(name)
    x, scale, g = (nhwc(case.inputs()[key]) for key in ("x", "scale", "g"))

    @jax.jit
    @jax.grad
    def gradient(x):
        return (there_and_back(x)[2] * g).sum()

    def there_and_back(x):
        x = jax.nn.relu(x) if name.endswith("ties") else x
        pooled, indices = pool.max_pool_with_indices(x, 2)
        return pooled, indices, pool.max_unpool(pooled * scale, indices, x.shape[1:3], 2)

    found = dict(zip(("pooled", "indices", "unpooled"), there_and_back(x)), input_grad=gradient(x))
    assert sorted(found) == sorted(case.info["outputs"])
    for output, value in found.items():
        assert_golden(case, output, nchw(value))


def loop(x, kernel, stride):
    """The maximum of every window and where it stands, one by one; the first one counts."""
    out = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], kernel, stride)]
    values, indices = np.zeros((len(x), *out, x.shape[-1]), x.dtype), np.zeros((len(x), *out, x.shape[-1]), int)
    for b, i, j, c in np.ndindex(values.shape):
        places = [(i * stride[0] + u, j * stride[1] + v) for u in range(kernel[0]) for v in range(kernel[1])]
        best = max(places, key=lambda place: x[b, *place, c])  # `max` returns the first of equals
        values[b, i, j, c], indices[b, i, j, c] = x[b, *best, c], best[0] * x.shape[2] + best[1]
    return values, indices


@pytest.mark.parametrize("kernel, stride", [((2, 2), (2, 2)), ((3, 2), (3, 4)), ((3, 3), (2, 1)), ((1, 2), (2, 2))])
def test_indices_equal_a_loop(kernel, stride):
    x = jnp.round(draw(2, 10, 13, 3))  # many ties
    values, indices = jax.jit(lambda x: pool.max_pool_with_indices(x, kernel, stride))(x)
    expected_values, expected_indices = loop(np.asarray(x), kernel, stride)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(values, pool.max_pool(x, kernel, stride))


@pytest.mark.parametrize("kernel, stride", [((2, 2), (2, 2)), ((3, 2), (3, 5)), ((1, 2), (2, 2))])
def test_unpooling_equals_a_loop(kernel, stride):
    x = draw(2, 11, 13, 3)
    values, indices = pool.max_pool_with_indices(x, kernel, stride)
    y = draw(*values.shape, seed=1)
    expected = np.zeros(x.shape, np.float32)
    for b, i, j, c in np.ndindex(y.shape):
        expected[b, *divmod(int(indices[b, i, j, c]), 13), c] = y[b, i, j, c]

    @jax.jit
    def unpool(y):
        return pool.max_unpool(y, indices, (11, 13), kernel, stride)

    np.testing.assert_array_equal(unpool(y), expected)
    check_grads(unpool, (y,), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)
    # What stands where no maximum was has exactly no say.
    g = jnp.where(expected == 0, draw(*x.shape, seed=2), 0)
    assert not jax.vjp(unpool, y)[1](g)[0].any()
    low = unpool(y.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, jnp.asarray(expected).astype(jnp.bfloat16))


def test_vmap_equals_a_loop():
    x = draw(3, 2, 7, 9, 4)

    def there_and_back(x):
        return pool.max_unpool(*pool.max_pool_with_indices(x, 2), x.shape[1:3], 2)

    np.testing.assert_array_equal(jax.vmap(there_and_back)(x), jnp.stack([there_and_back(part) for part in x]))


def test_dilated_windows():
    """Dilation by 2 is each of the four phases by itself."""
    x = draw(2, 10, 14, 3)
    found = pool.max_pool(x, (2, 3), 1, dilation=2)
    for i, j in np.ndindex(2, 2):
        np.testing.assert_array_equal(found[:, i::2, j::2], pool.max_pool(x[:, i::2, j::2], (2, 3), 1))


def test_refusals():
    y, indices = pool.max_pool_with_indices(draw(1, 6, 8, 2), 3, 2)
    with pytest.raises(ValueError, match=r"windows of \(3, 3\) every \(2, 2\) pixels overlap"):
        pool.max_unpool(y, indices, (6, 8), 3, 2)
    with pytest.raises(ValueError, match=r"\(2, 3\) values are not the windows"):
        pool.max_unpool(y, indices, (6, 8), 2)
