"""Vision transformers: numbers of timm, DINOv2 and Segmenter."""

import functools

import jax
import jax.numpy as jnp
import pytest
from classifiers import ViTHead
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import CLASS_HEAD

from attnseg_jax import build_model
from attnseg_jax.models.backbones.vit import ViT, ViTTi
from attnseg_jax.models.layers.vit import Block
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.vit import TIMM_VIT, TRANSFORMERS_DINOV2

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SEGMENTER_OPTIONS = {"norm_epsilon": 1e-5, "position_resize": "bilinear", "position_antialias": False}


class Dino(ViT):
    """The sizes of the golden."""

    width, depth, heads = 96, 4, 3


def watched(model, head=None):
    """(variables, head's variables, image) -> features, class scores and what enters and leaves each block."""

    @FAST_COMPILE
    def run(variables, head_variables, x):
        seen = {}

        def record(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, Block):
                seen[context.module.name] = args[0], y
            return y

        with nn.intercept_methods(record):
            features = model.apply(variables, x)
        return features, head and head.apply(head_variables, features), seen

    return run


def tokens_of(features):
    x = features.deepest
    return jnp.concatenate([features.extras["class_token"][:, None], x.reshape(len(x), -1, x.shape[-1])], axis=1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["backbone_vit_tiny_224", "backbone_vit_tiny_96x160"])
def test_timm(name):
    case = Golden(name)
    x = nhwc(case.inputs()["x"])
    model, head = ViTTi(), ViTHead(1000)
    loaded = from_torch(case.state_dict(), TIMM_VIT)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    scores = from_torch(case.state_dict(), CLASS_HEAD)
    features, logits, seen = watched(model, head)(variables, {"params": scores["params"]}, x)
    assert sorted(features.maps) == [16] and features.padded_size is None
    for i in (2, 5, 8, 11):
        patches = seen[f"block{i}"][1][:, 1:].reshape(features.deepest.shape)
        assert_golden(case, f"block{i}", nchw(patches))
    assert_golden(case, "tokens", tokens_of(features))
    assert_golden(case, "logits", logits)


@pytest.mark.parametrize("name", ["backbone_dinov2_tiny", "backbone_dinov2_tiny_70x112"])
def test_dinov2(name):
    case = Golden(name)
    x = nhwc(case.inputs()["x"])
    model = Dino(patch_size=14, position_size=(7, 7), position_antialias=False, layer_scale=1e-5)
    loaded = from_torch(case.state_dict(), TRANSFORMERS_DINOV2)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    run = watched(model)
    for gain, prefix in ((1, ""), (32, "gain/")):
        larger = jax.tree_util.tree_map_with_path(
            lambda path, leaf, gain=gain: leaf * gain if "layer_scale" in path[-1].key else leaf, variables
        )
        features, _, seen = run(larger, None, x)
        if not prefix:
            assert_golden(case, "embeddings", seen["block0"][0])
        for i in (1, 3):
            patches = seen[f"block{i}"][1][:, 1:].reshape(features.deepest.shape)
            assert_golden(case, f"{prefix}block{i}", nchw(patches))
        assert_golden(case, f"{prefix}tokens", tokens_of(features))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, position_size, decoder",
    [
        ("model_segmenter_tiny_linear", (6, 6), {"name": "fcn", "fcn": {"convs": 0}}),
        ("model_segmenter_tiny_mask", (4, 6), {"name": "mask_transformer", "mask_transformer": {"heads": 3}}),
        ("model_segmenter_tiny_mask_61x90", (6, 6), {"name": "mask_transformer", "mask_transformer": {"heads": 3}}),
    ],
)
def test_segmenter(name, position_size, decoder):
    case = Golden(name)
    x = nhwc(case.inputs()["x"])
    backbone = {"name": "vit_ti", "vit_ti": {**SEGMENTER_OPTIONS, "position_size": position_size}}
    model = build_model({"backbone": backbone, "attention": {"name": "none"}, "decoder": decoder}, num_classes=19)
    loaded = from_torch(case.state_dict(), rules_of("segmenter+timm_vit"))
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)

    @FAST_COMPILE
    def run(variables, x):
        seen = {}

        def record(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if context.method_name == "__call__":
                seen[context.module.name] = y
            return y

        with nn.intercept_methods(record):
            out = model.apply(variables, x)
        return out.logits, tokens_of(seen["backbone"]), seen["decoder"].logits

    logits, tokens, masks = run(variables, x)
    assert_golden(case, "logits", nchw(logits))
    if "tokens" in case.info["outputs"]:
        assert_golden(case, "tokens", tokens)
        assert_golden(case, "masks", nchw(masks))
