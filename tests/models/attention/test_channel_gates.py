"""Squeeze-and-excitation, CBAM and scSE: the originals, float64 loops, gradients, options and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc
from layout_rules import CBAM_ORIGINAL, SENET
from sown import with_records

from attnseg_jax.models import Features
from attnseg_jax.models.attention import CBAM, SCSE, SE
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.smp import SMP_SCSE

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((2, 5, 7, 12)).astype(np.float32)
FEATURES = Features({2: jnp.ones((2, 10, 14, 3)), 4: jnp.asarray(MAP)})
MECHANISMS = {"se": SE, "cbam": CBAM, "scse": SCSE}


@pytest.mark.parametrize(
    "name, model, rules",
    [
        ("attn_se_13x17", SE(), SENET),
        ("attn_cbam_13x17", CBAM(), CBAM_ORIGINAL),
        ("attn_scse_13x17", SCSE(), SMP_SCSE),
    ],
)
def test_golden(name, model, rules):
    case = Golden(name)
    x = nhwc(case.inputs()["x"])
    target = jax.eval_shape(functools.partial(model.init, method="attend"), jax.random.key(0), x)
    variables = match(target, from_torch(case.state_dict(), rules))
    assert_golden(case, "y", nchw(model.apply(variables, x, method="attend")))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mlp(v, p, channel):
    """Output `channel` of two dense layers, one hidden unit after the other."""
    total = p["up"].get("bias", np.zeros(12))[channel]
    for j in range(p["down"]["kernel"].shape[-1]):
        before = p["down"].get("bias", np.zeros(99))[j] + sum(
            v[i] * p["down"]["kernel"].reshape(12, -1)[i, j] for i in range(12)
        )
        total += max(before, 0.0) * p["up"]["kernel"].reshape(-1, 12)[j, channel]
    return total


def se(image, p, _):
    v = [image[..., i].mean() for i in range(12)]
    gate = [sigmoid(mlp(v, p["scores"], i)) for i in range(12)]
    return np.stack([image[..., i] * gate[i] for i in range(12)], -1), {"se": np.reshape(gate, (1, 1, 12))}


def scse(image, p, _):
    v = [image[..., i].mean() for i in range(12)]
    channel = [sigmoid(mlp(v, p, i)) for i in range(12)]
    spatial, y = np.zeros((5, 7, 1)), np.zeros_like(image)
    for i, j in np.ndindex(5, 7):
        spatial[i, j] = sigmoid(image[i, j] @ p["spatial"]["kernel"][0, 0] + p["spatial"]["bias"])
        for c in range(12):
            y[i, j, c] = image[i, j, c] * channel[c] + image[i, j, c] * spatial[i, j, 0]
    return y, {"scse_channel": np.reshape(channel, (1, 1, 12)), "scse_spatial": spatial}


def length(channel):
    return np.sqrt((channel**2).sum())


def log_sum(channel):
    return np.log(np.exp(channel).sum())


def cbam(image, p, statistics, pools=(np.mean, np.max)):
    pooled = [[f(image[..., i]) for i in range(12)] for f in pools]
    channel = [sigmoid(sum(mlp(v, p["scores"], i) for v in pooled)) for i in range(12)]
    y = image * np.reshape(channel, (1, 1, 12))
    kernel, norm, buffer = p["spatial_conv"]["kernel"], p["spatial_bn"], statistics["spatial_bn"]
    half, spatial = len(kernel) // 2, np.zeros((5, 7, 1))
    for i, j in np.ndindex(5, 7):
        total = 0.0
        for di, dj in np.ndindex(kernel.shape[:2]):
            row, column = i + di - half, j + dj - half
            if 0 <= row < 5 and 0 <= column < 7:
                pixel = y[row, column]
                total += pixel.max() * kernel[di, dj, 0, 0] + pixel.mean() * kernel[di, dj, 1, 0]
        total = (total - buffer["mean"]) / np.sqrt(buffer["var"] + 1e-5) * norm["scale"] + norm["bias"]
        spatial[i, j] = sigmoid(total)
    return y * spatial, {"cbam_channel": np.reshape(channel, (1, 1, 12)), "cbam_spatial": spatial}


@pytest.mark.parametrize(
    "name, oracle, options",
    [
        ("se", se, {"reduction": 5}),
        ("scse", scse, {"reduction": 3}),
        ("cbam", cbam, {"reduction": 4, "kernel_size": 3}),
        (
            "cbam",
            functools.partial(cbam, pools=(np.mean, np.max, length, log_sum)),
            {"reduction": 4, "kernel_size": 3, "lp": True, "lse": True},
        ),
    ],
)
def test_against_loops(random_variables, name, oracle, options):
    model = MECHANISMS[name](**options)
    variables = random_variables(model, FEATURES)
    v = jax.tree.map(lambda a: a.astype(np.float64), variables)
    out, records = with_records(model)(variables, FEATURES)
    np.testing.assert_array_equal(out.maps[2], FEATURES.maps[2])
    for b in range(2):
        y, gates = oracle(MAP[b].astype(np.float64), v["params"], v.get("batch_stats"))
        np.testing.assert_allclose(out.deepest[b], y, atol=1e-5)
        assert list(records) == [f"{key}0" for key in gates]
        for key, gate in gates.items():
            np.testing.assert_allclose(records[f"{key}0"].values[b], gate, atol=1e-6)


@pytest.mark.parametrize("name", MECHANISMS)
def test_gradients(random_variables, name):
    model = MECHANISMS[name](reduction=4)
    variables = random_variables(model, FEATURES)

    def f(params, x):
        return model.apply({**variables, "params": params}, FEATURES.with_deepest(x)).deepest

    check_grads(jax.jit(f), (variables["params"], FEATURES.deepest), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_cbam_trains_its_norm_slowly(random_variables):
    model = CBAM(reduction=4)
    variables = random_variables(model, FEATURES)
    _, updated = model.apply(variables, FEATURES, train=True, mutable=["batch_stats"])
    before, after = (v["batch_stats"]["spatial_bn"]["mean"] for v in (variables, updated))
    x = CBAM(reduction=4).apply(variables, FEATURES, capture_intermediates=True, mutable=["intermediates"])
    y = x[1]["intermediates"]["spatial_conv"]["__call__"][0]
    np.testing.assert_allclose(after, 0.99 * before + 0.01 * y.mean((0, 1, 2)), rtol=1e-5)


def test_narrow_maps_keep_one_hidden_unit():
    for name, path in (("se", ("scores", "down")), ("cbam", ("scores", "down")), ("scse", ("down",))):
        shapes = jax.eval_shape(MECHANISMS[name]().init, jax.random.key(0), FEATURES)["params"]
        kernel = functools.reduce(lambda tree, key: tree[key], path, shapes)["kernel"]
        assert kernel.shape[-2:] == (12, 1)
