"""The kernel's gradient of a dense convolution, in blocks that fit into the cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from attnseg_jax.ops import dense
from attnseg_jax.ops.conv import conv

# name: (kernel [kh, kw], keywords); images are [6, 11, 13, 4], blocks of two or three images or of a few rows.
CASES = {
    "3x3": ((3, 3), dict(padding=1)),
    "stride": ((3, 3), dict(padding=1, stride=2)),
    "strides": ((5, 2), dict(padding=((2, 1), (0, 3)), stride=(3, 1))),
    "dilation": ((3, 3), dict(padding=(2, 3), dilation=(2, 3))),
    "cut": ((2, 3), dict(padding=((-1, 0), (1, -2)))),
}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def loop(x, g, kernel, stride, dilation, sides):
    """The gradient in float64, tap by tap."""
    padded = np.pad(x.astype(np.float64), ((0, 0), *(tuple(max(n, 0) for n in side) for side in sides), (0, 0)))
    padded = padded[:, max(-sides[0][0], 0) :, max(-sides[1][0], 0) :]
    found = np.zeros((*kernel, x.shape[-1], g.shape[-1]))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = i * dilation[0] + stride[0] * np.arange(g.shape[1])
            columns = j * dilation[1] + stride[1] * np.arange(g.shape[2])
            found[i, j] = np.einsum("bhwc,bhwo->co", padded[:, rows][:, :, columns], g.astype(np.float64))
    return found


def both(value):
    return value if isinstance(value, tuple) else (value, value)


@pytest.mark.thorough
@pytest.mark.parametrize("block", [2_000, 9_000, 30_000])
@pytest.mark.parametrize("name", CASES)
def test_equals_a_sum_over_all_windows(name, block, monkeypatch):
    monkeypatch.setattr(dense, "_BLOCK", block)
    monkeypatch.setattr(dense, "_WINDOWS", 1)
    dense._convolution.cache_clear()
    size, keywords = CASES[name]
    x, kernel = draw(6, 11, 13, 4), draw(*size, 4, 5, seed=1)
    function = jax.jit(lambda k: conv(x, k, **keywords))
    assert "while" in jax.jit(jax.grad(lambda k: function(k).sum())).lower(kernel).as_text()
    y, pull = jax.vjp(function, kernel)
    g = draw(*y.shape, seed=2)
    sides = [both(side) for side in both(keywords["padding"])]
    expected = loop(
        np.asarray(x), np.asarray(g), size, both(keywords.get("stride", 1)), both(keywords.get("dilation", 1)), sides
    )
    np.testing.assert_allclose(pull(g)[0], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.thorough
def test_every_derivative(monkeypatch):
    """Forward mode, second derivatives and `vmap` are those of XLA's own; bfloat16 is summed in float32."""
    monkeypatch.setattr(dense, "_BLOCK", 2_000)
    dense._convolution.cache_clear()

    def own(x, kernel):
        return conv(x, kernel, padding=1)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, kernel = draw(2, 9, 7, 3), draw(3, 3, 3, 4, seed=1)

    def second(function):
        square = functools.partial(lambda k, f: (f(x, k) ** 2).sum(), f=function)
        return jax.jvp(jax.grad(square), (kernel,), (kernel + 1,))

    for found, expected in zip(second(own), second(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])

    def gradient(function):
        return jax.vmap(jax.grad(lambda k: (function(x, k) ** 2).sum()))(kernels)

    np.testing.assert_allclose(gradient(own), gradient(plain), rtol=1e-4, atol=1e-3)
    ones = jnp.ones((2, 30, 40, 1), jnp.bfloat16)
    found = jax.grad(lambda k: own(ones, k).astype(jnp.float32).sum())(jnp.zeros((3, 3, 1, 1), jnp.bfloat16))
    assert found[1, 1, 0, 0] == 2400  # 256 + 1 would be 256


def test_no_transposed_copy():
    """The compiled gradient holds little beside one padded copy of the images and one block."""
    x, g, kernel = draw(2, 40, 60, 64), draw(2, 40, 60, 64, seed=1), jnp.zeros((3, 3, 64, 64))
    gradient = jax.jit(lambda x, g: jax.vjp(lambda k: conv(x, k, padding=1), kernel)[1](g)[0])
    temporary = gradient.lower(x, g).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 1.2 * x.nbytes + g.nbytes + 3 * dense._BLOCK
