"""SegFormer's encoder: the original's numbers, published sizes, odd images, stochastic depth, mistakes."""

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
from attnseg_jax.models.backbones.mit import MiTB0, MixBlock
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.mit import TRANSFORMERS_SEGFORMER

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# The encoders' depths and, in millions, their sizes in the paper's table 1a; these are rounded either way.
PAPER = {
    "mit_b0": ((2, 2, 2, 2), 3.4),
    "mit_b1": ((2, 2, 2, 2), 13.1),
    "mit_b2": ((3, 4, 6, 3), 24.2),
    "mit_b3": ((3, 4, 18, 3), 44.0),
    "mit_b4": ((3, 8, 27, 3), 60.8),
    "mit_b5": ((3, 6, 40, 3), 81.4),
}
SMALL = (45, 58)


def abstract(model, size):
    return jax.eval_shape(lambda key: model.init_with_output(key, jnp.zeros((2, *size, 3))), jax.random.key(0))


def test_the_original():
    case = Golden("backbone_mit_b0")
    x = nhwc(case.inputs()["x"])
    model = MiTB0()
    loaded = from_torch(case.state_dict(), TRANSFORMERS_SEGFORMER)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    maps = FAST_COMPILE(model.apply)(variables, x).maps
    assert sorted(maps) == [4, 8, 16, 32]
    for stage, stride in enumerate(sorted(maps), 1):
        assert_golden(case, f"stage{stage}", nchw(maps[stride]))
    # The names of a classifier around the encoder, and of a whole model, lead to the same places.
    state = {f"segformer.{name}": array for name, array in case.state_dict().items()}
    whole = from_torch(state, ((r"^segformer\.", "backbone."), *TRANSFORMERS_SEGFORMER))
    assert jax.tree.structure(whole["params"]["backbone"]) == jax.tree.structure(loaded["params"])
    state |= {"classifier.weight": np.ones((5, 256)), "classifier.bias": np.ones(5)}
    match(loaded, from_torch(state, TRANSFORMERS_SEGFORMER))
    assert from_torch(state, CLASS_HEAD)["params"]["head"]["kernel"].shape == (256, 5)


def published(depths, widths):
    """The sum over the original's layers: weights, biases and norms as the published checkpoints list them."""
    total, before = 0, 3
    for depth, c, kernel, reduction in zip(depths, widths, (7, 3, 3, 3), (8, 4, 2, 1)):
        embedding = kernel**2 * before * c + c + 2 * c
        attention = 4 * (c * c + c) + (reduction**2 * c * c + c + 2 * c if reduction > 1 else 0)
        mix = (c * 4 * c + 4 * c) + (9 * 4 * c + 4 * c) + (4 * c * c + c)
        total += embedding + depth * (attention + mix + 2 * 2 * c) + 2 * c
        before = c
    return total


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name[-1] in "345")) for name in PAPER])
def test_number_of_parameters(name):
    depths, millions = PAPER[name]
    features, variables = abstract(BACKBONES[name](), SMALL)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == published(depths, (32, 64, 160, 256) if name == "mit_b0" else (64, 128, 320, 512))
    assert abs(count / 1e6 - millions) < 0.1
    if name == "mit_b0":
        assert count == 3_319_392  # as transformers builds it
    head = jax.eval_shape(MeanHead(7).init, jax.random.key(0), features)
    assert sum(leaf.size for leaf in jax.tree.leaves(head)) == 7 * (features.deepest.shape[-1] + 1)


@pytest.mark.parametrize(
    "size, sizes",
    [
        (SMALL, [(12, 15), (6, 8), (3, 4), (2, 2)]),
        ((29, 31), [(8, 8), (4, 4), (2, 2), (1, 1)]),
    ],
)
def test_sizes_of_the_maps(size, sizes):
    features, _ = abstract(MiTB0(), size)
    channels = [32, 64, 160, 256]
    assert [features.maps[s].shape for s in (4, 8, 16, 32)] == [(2, *s, c) for s, c in zip(sizes, channels)]


def test_other_channels_of_the_image():
    model = MiTB0()
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *SMALL, 5)))
    assert variables["params"]["patch_embed0"]["kernel"].shape == (7, 7, 5, 32)


def test_dropped_branches_leave_the_shortcut(random_variables):
    """At a rate of 0.8 an image keeps neither, one or both branches, and these are five times as large."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((48, 4, 5, 8)), jnp.float32)
    model = MixBlock(2, 2, drop_path=0.8)
    variables = random_variables(model, x)
    only_attention = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * ("mlp_out" not in [p.key for p in path]), variables
    )

    @FAST_COMPILE
    def run(variables, only_attention, x):
        y = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
        whole = MixBlock(2, 2)
        return y, model.apply(variables, x), whole.apply(variables, x), whole.apply(only_attention, x) - x

    y, still, whole, attended = run(variables, only_attention, x)
    changed = np.abs(y - x).max((1, 2, 3)) > 0
    assert 5 <= changed.sum() <= 30  # 0.36 * 48 = 17 on average
    only = np.abs(y - (x + 5 * attended)).max((1, 2, 3)) < 1e-4
    assert 1 <= only.sum() < changed.sum()
    np.testing.assert_allclose(still, whole, atol=1e-6)  # nothing is dropped in evaluation


def test_rates_of_the_blocks():
    model = MiTB0(drop_path=0.7)
    rates = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, MixBlock):
            rates[context.module.name] = context.module.drop_path
        return call(*args, **kwargs)

    def run(key):
        with nn.intercept_methods(record):
            return model.init(key, jnp.zeros((1, *SMALL, 3)))

    jax.eval_shape(run, jax.random.key(0))
    np.testing.assert_allclose([rates[f"block{i // 2}_{i % 2}"] for i in range(8)], np.arange(8) / 10, atol=1e-12)


@pytest.mark.parametrize(
    "options, size, message",
    [
        ({}, (64, 28), r"mit_b1 needs images of at least 29x29 pixels, not 64x28: "),
        ({"drop_path": 1.0}, SMALL, r"mit_b1\.drop_path=1\.0 must be at least 0 and below 1"),
        ({"impl": "denes"}, SMALL, r"mit_b1\.impl='denes' is unknown: did you mean 'dense'\?"),
    ],
)
def test_mistakes(options, size, message):
    with pytest.raises(UserError, match=r"config\.model\.backbone\." + message):
        abstract(build_model({"backbone": {"name": "mit_b1", "mit_b1": options}}, 7), size)
