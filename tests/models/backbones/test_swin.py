"""Swin: torchvision's numbers and sizes, odd images, norms of the stages, stochastic depth, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import MeanHead
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import CLASS_HEAD

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones import UNPUBLISHED
from attnseg_jax.models.backbones.swin import PatchMerging, Swin, SwinT
from attnseg_jax.models.layers.swin import SwinBlock
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.swin import TORCHVISION_SWIN

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# torchvision's, with their 1000 classes.
PARAMETERS = {"swin_t": 28_288_354, "swin_s": 49_606_258, "swin_b": 87_768_224}


class Small(Swin):
    width, depths, heads = 12, (1, 1, 1, 1), (3, 3, 3, 3)


def abstract(model, size, channels=3):
    image = jnp.zeros((2, *size, channels))
    return jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def with_stages(model):
    """(variables, image) -> maps and what the last block of each stage puts out."""

    @FAST_COMPILE
    def run(variables, x):
        stages = {}

        def record(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, SwinBlock):
                stages[context.module.name.partition("_")[0]] = y
            return y

        with nn.intercept_methods(record):
            return model.apply(variables, x).maps, stages

    return run


@pytest.mark.thorough
def test_the_original():
    case = Golden("backbone_swin_t")
    x = nhwc(case.inputs()["x"])
    model = SwinT()
    loaded = from_torch(case.state_dict(), TORCHVISION_SWIN)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    maps, stages = with_stages(model)(variables, x)
    for stage, stride in enumerate((4, 8, 16, 32), 1):
        assert_golden(case, f"stage{stage}", nchw(stages[f"stage{stage}"]))
        if stage < 4:
            np.testing.assert_array_equal(maps[stride], stages[f"stage{stage}"])
    assert_golden(case, "norm", nchw(maps[32]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "swin_b")) for name in PARAMETERS]
)
def test_number_of_parameters(name):
    features, variables = abstract(BACKBONES[name](), (45, 58))
    head = jax.eval_shape(MeanHead(1000).init, jax.random.key(0), features)
    assert size_of(variables) + size_of(head) == PARAMETERS[name]


def test_names_that_are_not_the_backbones():
    state = {"head.weight": np.ones((5, 768)), "head.bias": np.ones(5)}
    index = {"features.1.0.attn.relative_position_index": np.ones(49**2)}
    assert not from_torch(state | index, TORCHVISION_SWIN)["params"]
    assert from_torch(state | index, CLASS_HEAD)["params"]["head"]["kernel"].shape == (768, 5)


@pytest.mark.parametrize(
    "size, sizes",
    [((61, 83), [(15, 20), (8, 10), (4, 5), (2, 3)]), ((7, 25), [(1, 6), (1, 3), (1, 2), (1, 1)])],
)
def test_sizes_of_the_maps(size, sizes):
    features, variables = abstract(Small(), size, 5)
    assert [features.maps[s].shape for s in (4, 8, 16, 32)] == [(2, *size, 12 * 2**i) for i, size in enumerate(sizes)]
    assert variables["params"]["patch_embed"]["kernel"].shape == (4, 4, 5, 12)


def test_merging_against_numpy(random_variables):
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 6)).astype(np.float32)
    model = PatchMerging()
    variables = random_variables(model, x)
    found = model.apply(variables, x)
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    padded = np.zeros((2, 4, 6, 6))
    padded[:, :3, :5] = x
    assert found.shape == (2, 2, 3, 12)
    for b, i, j in np.ndindex(2, 2, 3):
        corners = [padded[b, 2 * i + s, 2 * j + t] for s, t in ((0, 0), (1, 0), (0, 1), (1, 1))]
        y = np.concatenate(corners)
        y = (y - y.mean()) / np.sqrt(y.var() + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
        np.testing.assert_allclose(found[b, i, j], y @ p["reduction"]["kernel"], atol=1e-5)


def test_norms_of_the_stages(random_variables):
    x = np.random.default_rng(2).standard_normal((1, 13, 22, 3)).astype(np.float32)
    model = Small(stage_norms=True)
    variables = random_variables(model, x)
    _, usual = abstract(Small(), x.shape[1:3])
    added = set(variables["params"]) - set(usual["params"])
    assert added == {"map_norm4", "map_norm8", "map_norm16"}
    assert all(UNPUBLISHED.match(f"{name}.") for name in added)
    maps, stages = with_stages(model)(variables, x)
    for stage, (stride, name) in enumerate({4: "map_norm4", 8: "map_norm8", 16: "map_norm16", 32: "norm"}.items(), 1):
        raw = np.asarray(stages[f"stage{stage}"], np.float64)
        y = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-5)
        p = variables["params"][name]
        np.testing.assert_allclose(maps[stride], y * p["scale"] + p["bias"], atol=1e-5)


def test_a_dropped_branch_leaves_the_shortcut(random_variables):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((40, 3, 4, 6)), jnp.float32)
    model = SwinBlock(2, 1, heads=3, drop_path=0.75)
    variables = random_variables(model, x)
    only_attention = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * ("mlp_out" not in [p.key for p in path]), variables
    )

    @FAST_COMPILE
    def run(variables, only_attention, x):
        y = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
        whole = SwinBlock(2, 1, heads=3)
        return y, model.apply(variables, x), whole.apply(variables, x), whole.apply(only_attention, x) - x

    y, still, whole, attended = run(variables, only_attention, x)
    changed = np.abs(y - x).max((1, 2, 3)) > 0
    assert 5 <= changed.sum() <= 30  # 0.44 * 40 = 17 on average
    assert (np.abs(y - (x + 4 * attended)).max((1, 2, 3)) < 1e-4).sum() >= 1
    np.testing.assert_allclose(still, whole, atol=1e-6)


@pytest.mark.parametrize(
    "options, size, message",
    [
        ({}, (3, 64), r"swin_b needs images of at least 4x4 pixels, not 3x64"),
        ({"drop_path": -0.1}, (45, 58), r"swin_b\.drop_path=-0\.1 must be at least 0 and below 1"),
    ],
)
def test_mistakes(options, size, message):
    with pytest.raises(UserError, match=r"config\.model\.backbone\." + message):
        abstract(build_model({"backbone": {"name": "swin_b", "swin_b": options}}, 7), size)
