"""Batch normalisation against float64, one device against eight, and against cancellation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

from attnseg_jax.ops import norm

C = 5


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


SCALE, BIAS, MEAN = (draw(C, seed=i) for i in (1, 2, 3))
VAR = 0.5 + draw(C, seed=4) ** 2


def oracle(x, momentum, eps):
    x = np.asarray(x, np.float64).reshape(-1, C)
    y = (x - x.mean(0)) / np.sqrt(x.var(0) + eps) * np.asarray(SCALE) + np.asarray(BIAS)
    mean = (1 - momentum) * np.asarray(MEAN) + momentum * x.mean(0)
    return y, mean, (1 - momentum) * np.asarray(VAR) + momentum * x.var(0, ddof=1)


def test_equals_float64():
    x = 3 + 2 * draw(2, 3, 7, C)
    y, mean, var = norm.batch_norm(x, SCALE, BIAS, MEAN, VAR, momentum=0.3, eps=1e-3)
    expected = oracle(x, 0.3, 1e-3)
    for found, want in zip((y.reshape(-1, C), mean, var), expected):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_a_large_mean_does_not_cancel():
    """With mean 1000 and deviation 1, E[x^2] - E[x]^2 in float32 would be off by a tenth."""
    x = 1000 + draw(4, 13, 17, C)
    _, _, var = norm.batch_norm(x, SCALE, BIAS, MEAN, VAR, momentum=1.0)
    np.testing.assert_allclose(var, np.asarray(x, np.float64).reshape(-1, C).var(0, ddof=1), rtol=1e-5)


def test_bfloat16_keeps_float32_statistics():
    x = (100 + draw(4, 13, 17, C)).astype(jnp.bfloat16)
    y, mean, var = norm.batch_norm(x, SCALE, BIAS, MEAN, VAR, momentum=1.0)
    assert (y.dtype, mean.dtype, var.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    exact = np.asarray(x, np.float64).reshape(-1, C)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, exact.var(0, ddof=1), rtol=1e-5)


def test_eight_devices_equal_one():
    """Values, statistics (the count is the global one) and the gradient through the shared statistics."""
    x, g = draw(8, 2, 3, C), draw(8, 2, 3, C, seed=9)
    mesh = Mesh(np.array(jax.devices()[:8]), (norm.DATA_AXIS,))
    split, whole = PartitionSpec(norm.DATA_AXIS), PartitionSpec()

    def sharded(x):
        def function(x):
            return norm.batch_norm(x, SCALE, BIAS, MEAN, VAR, axis_name=norm.DATA_AXIS)

        return jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=(split, whole, whole))(x)

    def single(x):
        return norm.batch_norm(x, SCALE, BIAS, MEAN, VAR)

    for ours, want in zip(jax.jit(sharded)(x), single(x)):
        np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-6)
    gradients = [jax.jit(jax.grad(lambda x, f=f: (f(x)[0] * g).sum()))(x) for f in (sharded, single)]
    np.testing.assert_allclose(*gradients, atol=1e-5)


def test_vmap_with_an_axis_name_shares_the_statistics():
    x = draw(4, 2, 3, C)
    mapped = jax.vmap(lambda x: norm.batch_norm(x, SCALE, BIAS, MEAN, VAR, axis_name="data"), axis_name="data")(x)
    for found, want in zip(mapped, norm.batch_norm(x, SCALE, BIAS, MEAN, VAR)):
        np.testing.assert_allclose(found[0] if found.ndim == 2 else found, want, rtol=1e-5, atol=1e-6)


def test_gradients():
    def function(*args):
        return norm.batch_norm(*args, MEAN, VAR)[0]

    check_grads(jax.jit(function), (draw(3, 2, C), SCALE, BIAS), order=1, modes=["rev"], eps=1e-2, atol=2e-2, rtol=2e-2)


def test_the_gradient_sums_over_the_batch_twice_and_keeps_its_derivatives():
    """Beside mean and variance: a sum for the bias and one for the scale. Second derivatives are the exact form's."""
    x, g = 2 + draw(3, 2, C), draw(3, 2, C, seed=9)

    def gradient(x, normalised=lambda x: norm.batch_norm(x, SCALE, BIAS, MEAN, VAR)[0]):
        return jax.grad(lambda x: (jnp.sin(normalised(x)) * g).sum())(x)

    def exact(x):
        centred = x - x.mean((0, 1), keepdims=True)
        return (
            centred / jnp.sqrt((centred**2).mean((0, 1), keepdims=True) + 1e-5) * SCALE[None, None] + BIAS[None, None]
        )

    def backward(*args):
        return jax.vjp(lambda *args: norm.batch_norm(*args, MEAN, VAR)[0], *args)[1](g)

    equations = jax.make_jaxpr(backward)(x, SCALE, BIAS).eqns
    assert sum(eqn.primitive.name == "reduce_sum" and eqn.invars[0].aval.shape == x.shape for eqn in equations) == 4
    found = jax.jit(lambda x: jax.jvp(gradient, (x,), (g,)))(x)
    with jax.enable_x64():
        wide = [jnp.asarray(np.asarray(t, np.float64)) for t in (x, g)]
        want = jax.jit(lambda x: jax.jvp(lambda x: gradient(x, exact), (x,), (wide[1],)))(wide[0])
    for ours, theirs in zip(found, want):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max())


def test_statistics_carry_no_gradient_of_the_batch():
    gradient = jax.grad(lambda x: sum(t.sum() for t in norm.batch_norm(x, SCALE, BIAS, MEAN, VAR)[1:]))(draw(3, 2, C))
    assert (gradient == 0).all()


def test_inference_of_the_batch_statistics_equals_training():
    x = draw(6, 7, C)
    y, mean, _ = norm.batch_norm(x, SCALE, BIAS, MEAN, VAR, momentum=1.0)
    biased = jnp.asarray(np.asarray(x, np.float64).reshape(-1, C).var(0), jnp.float32)
    np.testing.assert_allclose(norm.batch_norm_inference(x, SCALE, BIAS, mean, biased), y, atol=1e-5)
    assert norm.batch_norm_inference(x.astype(jnp.bfloat16), SCALE, BIAS, MEAN, VAR).dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(1, C), (1, 1, 1, C), (0, 2, 2, C)])
def test_a_single_element_is_refused(shape):
    """Its running variance would be 0.9^n after n steps, and evaluation off by the root of that."""
    with pytest.raises(ValueError, match="one element a channel has no variance"):
        norm.batch_norm(jnp.zeros(shape), SCALE, BIAS, MEAN, VAR)


def test_few_elements_keep_sound_statistics():
    """Two values of N(2, 3^2) a step, 4096 channels: the running variance is 9 on average."""
    c = 4096
    step = jax.jit(lambda x, mean, var: norm.batch_norm(x, jnp.ones(c), jnp.zeros(c), mean, var)[1:])
    statistics = jnp.zeros(c), jnp.ones(c)
    for key in jax.random.split(jax.random.key(0), 100):
        statistics = step(2 + 3 * jax.random.normal(key, (2, c)), *statistics)
    assert [float(x.mean()) for x in statistics] == pytest.approx([2, 9], abs=0.3)
