"""ConvNeXt: torchvision's numbers and sizes, odd images, norms of the stages, stochastic depth, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import MeanHead
from flax import linen as nn
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc
from layout_rules import TIMM_CONVNEXT_HEAD, TORCHVISION_CONVNEXT_HEAD

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones import UNPUBLISHED
from attnseg_jax.models.backbones.convnext import ConvNeXt, ConvNeXtBlock, ConvNeXtT, ConvNeXtV2Atto, ResponseNorm
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.convnext import TIMM_CONVNEXT, TORCHVISION_CONVNEXT

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# torchvision's, with their 1000 classes.
PARAMETERS = {"convnext_t": 28_589_128, "convnext_s": 50_223_688, "convnext_b": 88_591_464}
# timm's, likewise: in millions 3.71, 5.23, 9.07, 15.62, 28.64, 88.72, 197.96 and 660.29.
PARAMETERS |= {
    "convnextv2_atto": 3_708_400,
    "convnextv2_femto": 5_233_240,
    "convnextv2_pico": 9_066_280,
    "convnextv2_nano": 15_623_800,
    "convnextv2_tiny": 28_635_496,
    "convnextv2_base": 88_717_800,
    "convnextv2_large": 197_956_840,
    "convnextv2_huge": 660_289_640,
}


FAST = ("convnext_t", "convnextv2_atto")


class Small(ConvNeXt):
    depths, widths = (1, 1, 1, 1), (6, 8, 10, 12)


def abstract(model, size, channels=3):
    image = jnp.zeros((2, *size, channels))
    return jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_the_second_version():
    case = Golden("backbone_convnextv2_atto")
    x = nhwc(case.inputs()["x"])
    model, head = ConvNeXtV2Atto(), MeanHead(10, norm=True)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), from_torch(case.state_dict(), TIMM_CONVNEXT))
    scores = {"params": from_torch(case.state_dict(), TIMM_CONVNEXT_HEAD)["params"]}

    @FAST_COMPILE
    def run(variables, scores, x):
        features = model.apply(variables, x)
        return features.maps, head.apply(scores, features)

    maps, logits = run(variables, scores, x)
    for i in range(4):
        assert_golden(case, f"feat{i}", nchw(maps[4 << i]))
    assert_golden(case, "logits", logits)
    # The larger ones have linear layers in the file.
    state = {
        name: array[:, :, 0, 0] if "fc" in name and array.ndim == 4 else array
        for name, array in case.state_dict().items()
    }
    same = from_torch(state, TIMM_CONVNEXT)
    jax.tree.map(np.testing.assert_array_equal, same["params"], variables["params"])


@pytest.mark.thorough
def test_response_norm(random_variables):
    """Against float64, as the identity it starts as, and its gradient where a channel is 0 everywhere."""
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)
    x[0, :, :, 2] = 0
    model = ResponseNorm()
    variables = random_variables(model, x)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    length = np.sqrt((x.astype(np.float64) ** 2).sum((1, 2), keepdims=True))
    expected = x + p["bias"] + p["scale"] * x * (length / (length.mean(-1, keepdims=True) + 1e-6))
    np.testing.assert_allclose(model.apply(variables, x), expected, atol=1e-5)
    np.testing.assert_array_equal(model.apply(model.init(jax.random.key(0), x), x), x)
    check_grads(lambda p, x: model.apply({"params": p}, x), (variables["params"], x[1:]), 1, ("rev",), rtol=1e-2)
    assert np.isfinite(jax.grad(lambda x: model.apply(variables, x).sum())(x)).all()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in PARAMETERS]
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
