"""Expectation-maximisation attention: the original's outputs and gradients, and the life of its bases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import EMAU
from sown import with_records

from attnseg_jax.models import Features
from attnseg_jax.models.attention import ExpectationMaximization
from attnseg_jax.models.features import Output
from attnseg_jax.train.objective import Supervised
from attnseg_jax.train.parallel import make_parallel
from attnseg_jax.train.state import create_state
from attnseg_jax.train.step import eval_step, train_step
from attnseg_jax.weights.rename import from_torch, match

X = np.random.default_rng(0).standard_normal((2, 5, 7, 12)).astype(np.float32)


UNIT = ExpectationMaximization(bases=16)


def init(model, **options):
    return functools.partial(model.init, method="unit", **options)


def original(name):
    """(golden, variables of `UNIT`) of a case."""
    case = Golden(name)
    target = jax.eval_shape(init(UNIT), jax.random.key(0), nhwc(case.inputs()["x"]))
    return case, match(target, from_torch(case.state_dict(), EMAU))


@functools.partial(jax.jit, static_argnames="model")
def fitted_bases(model, variables, x):
    """Those of every image: what its bases would become if it were a batch and nothing else were remembered."""

    @jax.vmap
    def of_an_image(image):
        forgetful = model.clone(momentum=1.0)
        _, updated = forgetful.apply(variables, image[None], train=True, mutable=["batch_stats"], method="unit")
        return updated["batch_stats"]["mu"][0]

    return of_an_image(x)


def test_outputs_of_the_original():
    case, variables = original("attn_emau_13x17")
    x = nhwc(case.inputs()["x"])
    y, records = with_records(UNIT, method="unit")(variables, x)
    assert_golden(case, "y", nchw(y))
    assert_golden(case, "mu", fitted_bases(UNIT, variables, x))
    np.testing.assert_allclose(records["ema0"].weights.sum(-1), np.ones((2, 1, 13 * 17)), rtol=1e-6)


def test_gradients_of_the_original():
    case, variables = original("attn_emau_grad")
    x, g = (nhwc(case.inputs()[name]) for name in "xg")

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def total(params, x):
        y = UNIT.apply({**variables, "params": params}, x, method="unit")
        return (y * g).sum(), y

    (params, x_gradient), y = total(variables["params"], x)
    found = {
        "y": nchw(y),
        "mu": fitted_bases(UNIT, variables, x),
        "grad/x": nchw(x_gradient),
        "grad/conv1.weight": np.transpose(params["conv1"]["kernel"], (3, 2, 0, 1)),
        "grad/conv1.bias": params["conv1"]["bias"],
        "grad/conv2.0.weight": np.transpose(params["conv2"]["conv"]["kernel"], (3, 2, 0, 1)),
        "grad/conv2.1.weight": params["conv2"]["bn"]["scale"],
    }
    assert sorted(found) == sorted(case.info["outputs"])
    for name, value in found.items():
        assert_golden(case, name, value)
    assert (found["grad/conv1.weight"] == 0).all() and (found["grad/conv1.bias"] == 0).all()


def test_bases_are_unit_vectors_at_first_and_follow_the_batch_in_training_only():
    model = ExpectationMaximization(bases=4, momentum=0.25)
    x = jnp.asarray(X)
    variables = jax.jit(init(model, train=True))(jax.random.key(0), x)
    mu = variables["batch_stats"]["mu"]
    assert mu.shape == (1, 12, 4) and mu.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(mu, axis=1), np.ones((1, 4)), rtol=1e-5)
    apply = jax.jit(functools.partial(model.apply, mutable=["batch_stats"], method="unit"), static_argnames="train")
    _, updated = apply(variables, x, train=True)
    fitted = fitted_bases(model, variables, x)
    assert abs(fitted[0] - fitted[1]).max() > 0.1
    expected = 0.75 * mu[0] + 0.25 * (fitted[0] + fitted[1]) / 2
    np.testing.assert_allclose(updated["batch_stats"]["mu"][0], expected, atol=1e-6)
    np.testing.assert_array_equal(apply(variables, x, train=False)[1]["batch_stats"]["mu"], mu)


def test_the_joint(random_variables):
    model = ExpectationMaximization(channels=9, bases=4, dtype=jnp.bfloat16)
    features = Features({2: jnp.ones((2, 10, 14, 3)), 4: jnp.asarray(X, jnp.bfloat16)})
    variables = random_variables(model, features)
    out, records = with_records(model)(variables, features.with_deepest(features.deepest[:, :3]))
    record = records["ema0"]
    assert out.deepest.shape == (2, 3, 7, 9) and out.deepest.dtype == jnp.bfloat16
    assert record.weights.shape == (2, 1, 21, 4) and record.weights.dtype == jnp.float32
    assert record.query_size == (3, 7) and record.key_size is None
    np.testing.assert_allclose(record.weights.sum(-1), np.ones((2, 1, 21)), rtol=1e-6)
    wide = jax.eval_shape(ExpectationMaximization().init, jax.random.key(0), Features({32: jnp.ones((1, 2, 3, 2048))}))
    assert wide["params"]["lead"]["conv"]["kernel"].shape == (3, 3, 2048, 512)


class Small(nn.Module):
    """Bases around a classifier: little to compile."""

    @nn.compact
    def __call__(self, image, train=False):
        x = ExpectationMaximization(bases=4, momentum=0.5, name="ema").unit(image, train=train)
        return Output(nn.Dense(5, name="head")(x))


@functools.cache
def trained(mode, devices):
    """State after two steps on batches of 8 unlike images."""
    rng = np.random.default_rng(1)
    rule = optax.sgd(0.1)
    state = create_state(Small(), rule, jax.random.key(0), [jax.ShapeDtypeStruct((1, 5, 7, 6), jnp.float32)])
    step = functools.partial(train_step, model=Small(), optimizer=rule, objective=Supervised(5), schedule=lambda _: 0.1)
    evaluate = functools.partial(eval_step, model=Small(), num_classes=5)
    parallel = make_parallel(mode, step, evaluate, jax.devices()[:devices])
    state = parallel.put_state(state)
    for _ in range(2):
        image = rng.standard_normal((8, 5, 7, 6)).astype(np.float32) * np.arange(1, 9).reshape(8, 1, 1, 1)
        label = rng.integers(0, 5, (8, 5, 7)).astype(np.int32)
        batch = {"image": image.astype(np.float32), "label": label, "valid": np.ones(8, bool)}
        state, _ = parallel.train(state, parallel.shard_batch(batch))
    return jax.tree.map(np.asarray, (state.params, state.batch_stats))


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["pmap", pytest.param("mesh", marks=pytest.mark.slow)])
def test_eight_devices_equal_one(mode):
    one, eight = trained("mesh", 1), trained(mode, 8)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
    first = Small().init(jax.random.key(0), jnp.zeros((1, 5, 7, 6)))["batch_stats"]["ema"]["mu"]
    assert abs(one[1]["ema"]["mu"] - first).max() > 0.1
