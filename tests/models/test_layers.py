"""Convolution and batch normalisation modules; PyTorch's values are compared in test_goldens.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from attnseg_jax.models.layers.conv import BatchNorm, Conv, ConvBN, layer_norm

X = jax.random.normal(jax.random.key(0), (8, 5, 7, 3)) * jnp.linspace(1, 3, 8).reshape(8, 1, 1, 1) + 2.0


def normalise(variables, x):
    return BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("mapped", [jax.vmap, jax.pmap])
def test_batch_norm_averages_over_the_axis_data(mapped):
    variables = BatchNorm().init(jax.random.key(0), X, train=False)
    whole, updated = normalise(variables, X)
    parts = X.reshape(4, 2, 5, 7, 3)
    y, statistics = mapped(normalise, in_axes=(None, 0), axis_name="data")(variables, parts)
    np.testing.assert_allclose(y.reshape(X.shape), whole, rtol=1e-5, atol=1e-6)
    for name in ("mean", "var"):
        expected = np.broadcast_to(updated["batch_stats"][name], (4, 3))
        np.testing.assert_allclose(statistics["batch_stats"][name], expected, rtol=1e-6)
    # On an axis of another name each part keeps to itself.
    alone, _ = mapped(normalise, in_axes=(None, 0), axis_name="other")(variables, parts)
    assert abs(alone.reshape(X.shape) - whole).max() > 0.1


def test_initialisation_leaves_the_running_statistics():
    stats = BatchNorm().init(jax.random.key(0), X, train=True)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(3))
    np.testing.assert_array_equal(stats["var"], np.ones(3))


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_stays_outside_of_parameters_and_statistics(train):
    # The offset is a thousand times the spread: statistics in bfloat16 would lose it.
    x = (1000.0 + 8.0 * jax.random.normal(jax.random.key(1), (4, 9, 9, 3))).astype(jnp.bfloat16)
    model = BatchNorm(dtype=jnp.bfloat16)
    variables = model.init(jax.random.key(0), x, train=train)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    y, updated = model.apply(variables, x, train=train, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    if train:
        exact = np.asarray(x, np.float64)
        expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=0.02)
        np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * exact.mean((0, 1, 2)), rtol=1e-5)


def test_layer_norm_keeps_what_is_small_beside_the_mean():
    x = np.float32(1000.0) + np.linspace(-0.5, 0.5, 64, dtype=np.float32).reshape(1, 64)
    exact = x.astype(np.float64) - x.astype(np.float64).mean()
    module = layer_norm("norm")
    y = module.apply(module.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(y, exact / np.sqrt(exact.var() + 1e-6), atol=2e-3)


@pytest.mark.parametrize(
    "options, size",
    [
        (dict(kernel_size=3), (13, 17)),
        (dict(kernel_size=3, dilation=4), (13, 17)),
        (dict(kernel_size=7, stride=2), (7, 9)),
        (dict(kernel_size=3, padding=0), (11, 15)),
        (dict(kernel_size=3, padding=((0, 2), (1, 3))), (13, 19)),
        (dict(kernel_size=1, stride=2), (7, 9)),
    ],
)
def test_padding_keeps_the_size(options, size):
    x = jnp.ones((2, 13, 17, 4))
    model = Conv(6, groups=2, use_bias=True, **options)
    y, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x))
    assert y.shape == (2, *size, 6)
    k = options["kernel_size"]
    assert jax.tree.map(jnp.shape, variables["params"]) == {"kernel": (k, k, 2, 6), "bias": (6,)}


def test_relu_can_be_left_out(random_variables):
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    variables = random_variables(ConvBN(4), x, train=False)
    with_relu, without = (ConvBN(4, activation=a).apply(variables, x, train=False) for a in (nn.relu, None))
    assert without.min() < 0
    np.testing.assert_array_equal(with_relu, np.maximum(without, 0))


def test_no_padding_keeps_the_size_under_an_even_kernel():
    with pytest.raises(ValueError, match="under a kernel of 4 pixels"):
        Conv(3, 4).init(jax.random.key(0), jnp.zeros((1, 5, 7, 2)))
