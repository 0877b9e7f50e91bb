"""Attention gates on a decoder's skips: the originals, float64 loops, whole models, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc
from layout_rules import OKTAY
from sown import recorded, traced_records, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.gate import FORMS, Gate
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.unet import LEEJUNHYUN

RNG = np.random.default_rng(0)
SKIP = RNG.standard_normal((2, 5, 8, 6)).astype(np.float32)
SIGNAL = RNG.standard_normal((2, 3, 4, 7)).astype(np.float32)
IMAGE = RNG.standard_normal((2, 13, 18, 3)).astype(np.float32)


def whole(form="oktay", skips=(4, 2), name="gate", dtype=jnp.float32, **options):
    parts = {
        "backbone": {"tiny": {"width": 12}},
        "attention": {"name": name, "gate": {"form": form, **options}},
        "decoder": {"fcn": {"skips": skips}},
    }
    return build_model(parts, 7, dtype=dtype)


@pytest.mark.parametrize(
    "name, form, rules",
    [("attn_gate_oktay_13x17", "oktay", OKTAY), ("attn_gate_leejunhyun_13x17", "leejunhyun", LEEJUNHYUN)],
)
def test_golden(name, form, rules):
    case, block = Golden(name), Gate(form=form)
    x, g = (nhwc(case.inputs()[key]) for key in "xg")
    variables = match(
        jax.eval_shape(functools.partial(block.init, method=form), jax.random.key(0), x, g),
        from_torch(case.state_dict(), rules),
    )
    found = dict(zip(("y", "alpha"), map(nchw, block.apply(variables, x, g, method=form))))
    for output in case.info["outputs"]:
        assert_golden(case, output, found[output])


def bilinear(image, height, width):
    """Resized to `height` x `width`, pixel by pixel, at half-pixel centres."""
    h, w = image.shape[:2]
    out = np.zeros((height, width, image.shape[2]))
    for i, j in np.ndindex(height, width):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
        for row, column in {(int(y) + a, int(x) + b) for a in (0, 1) for b in (0, 1)}:
            share = max(0, 1 - abs(row - y)) * max(0, 1 - abs(column - x))
            if share:
                out[i, j] += share * image[row, column]
    return out


def normalised(x, p, statistics):
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * p["scale"] + p["bias"]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def oktay(skip, signal, p, statistics):
    phi = bilinear(signal @ p["phi"]["kernel"][0, 0] + p["phi"]["bias"], 2, 4)
    half = np.zeros((2, 4, 1))
    for i, j in np.ndindex(2, 4):
        theta = sum(skip[2 * i + a, 2 * j + b] @ p["theta"]["kernel"][a, b] for a in (0, 1) for b in (0, 1))
        before = np.maximum(theta + phi[i, j], 0)
        half[i, j] = sigmoid(before @ p["psi"]["kernel"][0, 0] + p["psi"]["bias"])
    gate = bilinear(half, 5, 8)
    y = (skip * gate) @ p["out_conv"]["kernel"][0, 0] + p["out_conv"]["bias"]
    return normalised(y, p["out_bn"], statistics["out_bn"]), gate


def leejunhyun(skip, signal, p, statistics):
    def project(x, name):
        y = x @ p[f"{name}_conv"]["kernel"][0, 0] + p[f"{name}_conv"]["bias"]
        return normalised(y, p[f"{name}_bn"], statistics[f"{name}_bn"])

    both = project(bilinear(signal, 5, 8), "signal") + project(skip, "skip")
    gate = sigmoid(project(np.maximum(both, 0), "psi"))
    return skip * gate, gate


def gate(model, variables, skip, signal):
    """The gated skip and the records."""
    return with_records(model, stride=4, method="gate")(variables, skip, signal)


def variables_of(random_variables, model):
    return random_variables(model, jnp.asarray(SKIP), jnp.asarray(SIGNAL), stride=4, method="gate")


@pytest.mark.parametrize("oracle, channels", [(oktay, 3), (leejunhyun, 5)])
def test_against_loops(random_variables, oracle, channels):
    model = Gate(form=oracle.__name__, channels=channels)
    variables = variables_of(random_variables, model)
    v = jax.tree.map(lambda a: a.astype(np.float64), variables)
    y, maps = gate(model, variables, SKIP, SIGNAL)
    assert list(maps) == ["gate4_0"]
    for b in range(2):
        skip, signal = SKIP[b].astype(np.float64), SIGNAL[b].astype(np.float64)
        expected, values = oracle(skip, signal, v["params"]["gate4"], v["batch_stats"]["gate4"])
        np.testing.assert_allclose(y[b], expected, atol=1e-5)
        np.testing.assert_allclose(maps["gate4_0"].values[b], values, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_gradients(random_variables, form):
    model = Gate(form=form)
    variables = variables_of(random_variables, model)
    # Far from ReLU's corner, on either side of it.
    leaf = variables["params"]["gate4"]["phi" if form == "oktay" else "skip_bn"]
    leaf["bias"] = np.array([9, -9, 9], np.float32)

    def f(params, skip, signal):
        return model.apply({**variables, "params": params}, skip, signal, stride=4, method="gate")

    check_grads(jax.jit(f), (variables["params"], SKIP, SIGNAL), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_the_last_row_of_an_odd_skip_decides_nothing_in_oktays_form(random_variables):
    model = Gate(form="oktay")
    variables = variables_of(random_variables, model)

    def total(skip):
        _, records = recorded(model, stride=4, method="gate")(variables, skip, SIGNAL)
        return records["gate4_0"].values.sum()

    gradient = jax.jit(jax.grad(total))(jnp.asarray(SKIP))
    assert not gradient[:, 4].any() and abs(gradient[:, :4]).max((0, 3)).all()


@pytest.mark.parametrize("form", FORMS)
def test_gates_every_skip_of_a_model(random_variables, form):
    model = whole(form)
    variables = random_variables(model, IMAGE)
    assert sorted(variables["params"]["attention"]) == ["gate2", "gate4"]
    apply = with_records(model)
    out, records = apply(variables, IMAGE)
    assert {key: record.values.shape for key, record in records.items()} == {
        "gate2_0": (2, 7, 9, 1),
        "gate4_0": (2, 4, 5, 1),
    }
    assert all((record.values > 0).all() and (record.values < 1).all() for record in records.values())
    psi = ("psi", "bias") if form == "oktay" else ("psi_bn", "bias")
    for stride in (2, 4):
        changed = jax.tree.map(lambda a: a, variables)
        leaf = functools.reduce(lambda tree, key: tree[key], psi[:1], changed["params"]["attention"][f"gate{stride}"])
        leaf[psi[1]] = leaf[psi[1]] + 3
        assert abs(apply(changed, IMAGE)[0].logits - out.logits).max() > 1e-3


def test_stacks_gate_one_after_another():
    model = whole(name="self+gate+gate", skips=(2,))
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    assert sorted(variables["params"]["attention"]) == ["parts_0", "parts_1", "parts_2"]
    _, records = traced_records(model)(variables, IMAGE)
    assert list(records) == ["self0", "gate2_0", "gate2_1"]


@pytest.mark.parametrize("form", FORMS)
def test_gates_stay_float32_under_bfloat16(random_variables, form):
    variables = variables_of(random_variables, Gate(form=form))
    exact = gate(Gate(form=form), variables, SKIP, SIGNAL)[1]["gate4_0"].values
    skip, signal = (jnp.asarray(x, jnp.bfloat16) for x in (SKIP, SIGNAL))
    y, maps = gate(Gate(form=form, dtype=jnp.bfloat16), variables, skip, signal)
    assert y.dtype == jnp.bfloat16 and maps["gate4_0"].values.dtype == jnp.float32
    assert 0 < abs(maps["gate4_0"].values - exact).max() < 0.03


@pytest.mark.parametrize("name", ["gate", "self+gate"])
def test_a_decoder_without_skips(name):
    message = r"^config\.model\.attention\.gate weights a decoder's skips, .* has none: .* fcn with skips=\(2,\)"
    with pytest.raises(OptionError, match=message):
        jax.eval_shape(whole(skips=(), name=name).init, jax.random.key(0), IMAGE)


def test_a_skip_of_one_row_is_too_small_for_oktays_form():
    image = jnp.zeros((1, 3, 18, 3))
    message = r"^config\.model\.attention\.gate\.form='oktay' halves the skip of stride 4, which is 1 x 5 pixels only"
    with pytest.raises(OptionError, match=message):
        jax.eval_shape(whole().init, jax.random.key(0), image)
    jax.eval_shape(whole("leejunhyun").init, jax.random.key(0), image)
