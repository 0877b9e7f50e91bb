"""ConvNeXt: torchvision's numbers and sizes, odd images, norms of the stages, stochastic depth, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import MeanHead
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import TORCHVISION_CONVNEXT_HEAD

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones import UNPUBLISHED
from attnseg_jax.models.backbones.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtT
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.convnext import TORCHVISION_CONVNEXT

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# torchvision's, with their 1000 classes.
PARAMETERS = {"convnext_t": 28_589_128, "convnext_s": 50_223_688, "convnext_b": 88_591_464}


class Small(ConvNeXt):
    depths, widths = (1, 1, 1, 1), (6, 8, 10, 12)


def abstract(model, size, channels=3):
    image = jnp.zeros((2, *size, channels))
    return jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_original():
    case = Golden("backbone_convnext_t")
    x = nhwc(case.inputs()["x"])
    model, head = ConvNeXtT(), MeanHead(1000, norm=True)
    loaded = from_torch(case.state_dict(), TORCHVISION_CONVNEXT)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    scores = {"params": from_torch(case.state_dict(), TORCHVISION_CONVNEXT_HEAD)["params"]}

    @FAST_COMPILE
    def run(variables, scores, x):
        seen = {}

        def record(call, args, kwargs, context):
            if context.module.name == "stage1_0":
                seen["stem"] = args[0]
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            features = model.apply(variables, x)
        seen |= {f"stage{i}": features.maps[2 * 2**i] for i in (1, 2, 3, 4)}
        return seen, head.apply(scores, features)

    for gain, prefix in ((1, ""), (32, "gain/")):
        larger = jax.tree_util.tree_map_with_path(
            lambda path, leaf, gain=gain: leaf * gain if path[-1].key == "layer_scale" else leaf, variables
        )
        found, logits = run(larger, scores, x)
        found = {prefix + name: nchw(value) for name, value in found.items()} | {prefix + "logits": logits}
        names = [name for name in case.info["outputs"] if name.startswith("gain/") == bool(prefix)]
        assert len(names) in (4, 6)
        for name in names:
            assert_golden(case, name, found[name])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "convnext_t")) for name in PARAMETERS]
)
def test_number_of_parameters(name):
    features, variables = abstract(BACKBONES[name](), (45, 58))
    head = jax.eval_shape(MeanHead(1000, norm=True).init, jax.random.key(0), features)
    assert size_of(variables) + size_of(head) == PARAMETERS[name]


@pytest.mark.parametrize(
    "size, sizes",
    [((61, 83), [(15, 20), (7, 10), (3, 5), (1, 2)]), ((32, 63), [(8, 15), (4, 7), (2, 3), (1, 1)])],
)
def test_sizes_of_the_maps(size, sizes):
    features, variables = abstract(Small(), size, 5)
    assert [features.maps[s].shape for s in (4, 8, 16, 32)] == [(2, *size, c) for size, c in zip(sizes, (6, 8, 10, 12))]
    assert variables["params"]["down1_conv"]["kernel"].shape == (4, 4, 5, 6)


def test_norms_of_the_stages(random_variables):
    x = np.random.default_rng(2).standard_normal((1, 35, 67, 3)).astype(np.float32)
    model = Small(stage_norms=True)
    variables = random_variables(model, x)
    names = {stride: f"map_norm{stride}" for stride in (4, 8, 16, 32)}
    _, usual = abstract(Small(), x.shape[1:3])
    assert set(variables["params"]) - set(usual["params"]) == set(names.values())
    assert all(UNPUBLISHED.match(f"{name}.") for name in names.values())

    @FAST_COMPILE
    def run(variables, x):
        stages = {}

        def record(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, ConvNeXtBlock):
                stages[context.module.name.partition("_")[0]] = y
            return y

        with nn.intercept_methods(record):
            return model.apply(variables, x).maps, stages

    maps, stages = run(variables, x)
    for stage, (stride, name) in enumerate(names.items(), 1):
        y = np.asarray(stages[f"stage{stage}"], np.float64)
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        p = variables["params"][name]
        np.testing.assert_allclose(maps[stride], y * p["scale"] + p["bias"], atol=1e-5)


def test_a_dropped_branch_leaves_the_shortcut(random_variables):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((40, 3, 4, 6)), jnp.float32)
    model = ConvNeXtBlock(0.5, drop_path=0.75)
    variables = random_variables(model, x)

    @FAST_COMPILE
    def run(variables, x):
        y = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
        return y, model.apply(variables, x), ConvNeXtBlock(0.5).apply(variables, x)

    y, still, whole = run(variables, x)
    kept = np.abs(y - x).max((1, 2, 3)) > 0
    assert 2 <= kept.sum() <= 22  # 10 on average
    np.testing.assert_array_equal(y[~kept], x[~kept])
    np.testing.assert_allclose(y[kept], (x + 4 * (whole - x))[kept], atol=1e-5)
    np.testing.assert_allclose(still, whole, atol=1e-6)
    assert "layer_scale" not in jax.eval_shape(ConvNeXtBlock(0.0).init, jax.random.key(0), x)["params"]


@pytest.mark.parametrize(
    "options, size, message",
    [
        ({}, (31, 64), r"convnext_s needs images of at least 32x32 pixels, not 31x64: "),
        ({"drop_path": 1.5}, (45, 58), r"convnext_s\.drop_path=1\.5 must be at least 0 and below 1"),
        ({"layer_scale": -1.0}, (45, 58), r"convnext_s\.layer_scale=-1\.0 must be at least 0"),
    ],
)
def test_mistakes(options, size, message):
    with pytest.raises(UserError, match=r"config\.model\.backbone\." + message):
        abstract(build_model({"backbone": {"name": "convnext_s", "convnext_s": options}}, 7), size)
