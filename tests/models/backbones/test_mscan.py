"""MSCAN and SegNeXt: mmsegmentation's numbers, published sizes, images of any size, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES, Features, Segmenter
from attnseg_jax.models.attention import ATTENTION
from attnseg_jax.models.backbones.mscan import MSCAN, MSCANT, MSCABlock
from attnseg_jax.models.decoders.ham import Ham
from attnseg_jax.models.layers.hamburger import Hamburger
from attnseg_jax.ops.resize import resize
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.mscan import MMSEG_MSCAN

# Depths and widths, and in millions the sizes of the paper's table 4 with its 1000 classes.
PAPER = {
    "mscan_t": ((3, 3, 5, 2), (32, 64, 160, 256), 4.2),
    "mscan_s": ((2, 2, 4, 2), (64, 128, 320, 512), 14.0),
    "mscan_b": ((3, 3, 12, 3), (64, 128, 320, 512), 26.8),
    "mscan_l": ((3, 5, 27, 3), (64, 128, 320, 512), 45.2),
}


class Tiny(MSCAN):
    """The sizes of the goldens."""

    depths, widths, mlp_ratios = (1, 2, 1, 1), (8, 16, 20, 32), (4, 3, 2, 2)


def abstract(model, size, channels=3):
    image = jnp.zeros((2, *size, channels))
    return jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))


def enlarged(variables):
    """With every layer scale times 32, as the outputs `gain/...` have it."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 32 if path[-1].key.startswith("layer_scale") else leaf, variables
    )


@pytest.mark.parametrize(
    "name, model",
    [("backbone_mscan_tiny", Tiny()), ("backbone_mscan_t", MSCANT())],
)
@pytest.mark.slow
def test_the_original(name, model):
    case = Golden(name)
    x = nhwc(case.inputs()["x"])
    loaded = from_torch(case.state_dict(), MMSEG_MSCAN)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    run = FAST_COMPILE(model.apply)
    assert_golden(case, "stage4", nchw(run(variables, x).deepest))
    maps = run(enlarged(variables), x).maps
    for stage in (1, 2, 3, 4):
        assert_golden(case, f"gain/stage{stage}", nchw(maps[2 * 2**stage]))


@pytest.mark.thorough
def test_segnext(monkeypatch):
    case = Golden("model_segnext_tiny")
    x, bases = nhwc(case.inputs()["x"]), case.inputs()["bases"]
    monkeypatch.setattr(Hamburger, "start", lambda *_, **__: jnp.asarray(bases))
    model = Segmenter(Tiny(), ATTENTION["none"](), Ham(7, channels=32, bases=5))
    target = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = match(target, from_torch(case.state_dict(), rules_of("mmseg_ham+mmseg_mscan")))

    @FAST_COMPILE
    def run(variables, x):
        def parts(model, x):
            features = model.backbone(x)
            return features.deepest, model.decoder(features).logits

        return model.apply(variables, x, method=parts)

    stage4, logits = run(enlarged(variables), x)
    full = resize(logits, x.shape[1:3])
    for name, value in {"stage4": stage4, "logits": logits, "logits_full": full}.items():
        assert_golden(case, f"gain/{name}", nchw(value))


def test_the_head_of_the_original(monkeypatch):
    case = Golden("head_segnext_lightham")
    inputs = case.inputs()
    monkeypatch.setattr(Hamburger, "start", lambda *_, **__: jnp.asarray(inputs["bases"]))
    features = Features({2 * 2**i: nhwc(inputs[f"stage{i}"]) for i in (1, 2, 3, 4)})
    model = Ham(7, channels=32, bases=5)
    state = {f"decode_head.{name}": array for name, array in case.state_dict().items()}
    loaded = from_torch(state, rules_of("mmseg_ham+mmseg_mscan"))
    variables = {"params": loaded["params"]["decoder"]}
    match(jax.eval_shape(model.init, jax.random.key(0), features), variables)
    out, records = with_records(model, capture_intermediates=True)(variables, features)
    assert_golden(case, "logits", nchw(out.logits))
    shares = records["hamburger0"].weights
    assert shares.shape == (2, 1, 88, 5) and shares.min() >= 0
    np.testing.assert_allclose(shares.sum(-1), np.ones((2, 1, 88)), rtol=1e-5)

    @FAST_COMPILE
    def inner(variables):
        _, state = model.apply(variables, features, capture_intermediates=True, mutable=["intermediates"])
        return state["intermediates"]

    seen = inner(variables)
    assert_golden(case, "squeezed", nchw(seen["squeeze"]["__call__"][0]))
    assert_golden(case, "hamburger", nchw(seen["hamburger"]["__call__"][0]))


def published(depths, widths):
    """The sum over the original's layers: weights, biases, norms and layer scales as its checkpoints list them."""
    total, before = 0, 3
    for stage, (depth, c, ratio) in enumerate(zip(depths, widths, (8, 8, 4, 4))):
        stem = (9 * before * c // 2 + c // 2) + 2 * (c // 2) + (9 * c // 2 * c + c) + 2 * c
        embedding = 9 * before * c + c + 2 * c if stage else stem
        attention = 3 * (c * c + c) + 26 * c + sum(2 * (n + 1) * c for n in (7, 11, 21))
        mlp = (c * ratio * c + ratio * c) + 10 * ratio * c + (ratio * c * c + c)
        total += embedding + depth * (attention + mlp + 2 * 2 * c + 2 * c) + 2 * c
        before = c
    return total


@pytest.mark.thorough
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n[-1] in "bl")) for n in PAPER])
def test_number_of_parameters(name):
    depths, widths, millions = PAPER[name]
    _, variables = abstract(BACKBONES[name](), (45, 58))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == published(depths, widths)
    assert abs((count + 1001 * widths[-1]) / 1e6 - millions) < 0.1
    if name == "mscan_t":
        # Names and sizes of the published file.
        case = Golden("backbone_mscan_t")
        shapes = {name: np.broadcast_to(np.float32(0), shape) for name, shape in case.info["state_dict"]}
        match(variables, from_torch({**shapes, "head.weight": np.zeros((1000, 256))}, MMSEG_MSCAN))


@pytest.mark.parametrize(
    "size, sizes", [((45, 58), [(12, 15), (6, 8), (3, 4), (2, 2)]), ((1, 3), [(1, 1), (1, 1), (1, 1), (1, 1)])]
)
def test_sizes_of_the_maps(size, sizes):
    features, variables = abstract(Tiny(), size, 5)
    assert [features.maps[s].shape for s in (4, 8, 16, 32)] == [(2, *s, c) for s, c in zip(sizes, (8, 16, 20, 32))]
    assert variables["params"]["stem1"]["conv"]["kernel"].shape == (3, 3, 5, 4)


def test_rates_of_the_blocks():
    rates = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, MSCABlock) and context.method_name == "__call__":
            rates.append(context.module.drop_path)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        abstract(Tiny(drop_path=0.4), (33, 35))
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4], atol=1e-12)


@pytest.mark.parametrize(
    "part, options, message",
    [
        ("backbone.mscan_s", {"drop_path": 1.0}, r"drop_path=1\.0 must be at least 0 and below 1"),
        ("decoder.ham", {"groups": 48}, r"groups=48 does not divide 256 channels: choose a divisor"),
        ("decoder.ham", {"bases": 0}, r"bases=0 must be at least 1 and at most 4096"),
        ("decoder.ham", {"strides": ()}, r"strides=\(\) names no map"),
        ("attention.hamburger", {"groups": 24}, r"groups=24 does not divide 64 channels: choose a divisor"),
        ("attention.conv", {"strips": (7, 4)}, r"strips=\(7, 4\) must be  ?odd numbers"),
    ],
)
def test_mistakes(part, options, message):
    part, name = part.split(".")
    config = {"backbone": {"name": "tiny"}, part: {"name": name, name: options}}
    with pytest.raises(UserError, match=rf"config\.model\.{part}\.{name}\." + message):
        abstract(build_model(config, 7), (45, 58))
