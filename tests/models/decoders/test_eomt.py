"""EoMT: numbers of the original with masked attention, without it and in between, its loss, the annealing, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nhwc

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models.backbones.dino import DINOv3ViT
from attnseg_jax.models.backbones.vit import ViT
from attnseg_jax.models.decoders import eomt
from attnseg_jax.models.decoders.eomt import EoMT
from attnseg_jax.models.layers.vit import Block
from attnseg_jax.models.records import RECORDS, attention_records
from attnseg_jax.models.segmenter import Segmenter
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch, match

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
LAYOUT = "transformers_eomt+transformers_eomt"


class TinyV2(ViT):
    width, depth, heads, mlp_ratio = 32, 4, 2, 2.0


class TinyV2Gated(ViT):
    width, depth, heads, mlp_ratio, gated = 32, 4, 2, 1.5, True


class TinyV3(DINOv3ViT):
    width, depth, heads, mlp_ratio = 32, 4, 2, 2.0


V2 = {"patch_size": 8, "layer_scale": 1e-5, "class_position": False}
CASES = {
    "model_eomt_tiny": (
        TinyV2(**V2, position_size=(5, 5), registers=4),
        EoMT(7, queries=6, blocks=3, upsamplings=2),
    ),
    "model_eomt_swiglu_4x9": (
        TinyV2Gated(**V2, position_size=(4, 9)),
        EoMT(7, queries=5, blocks=2, upsamplings=1),
    ),
    "model_eomt_dinov3_tiny_5x7": (
        TinyV3(patch_size=8, norm_epsilon=1e-6),
        EoMT(7, queries=9, blocks=3, upsamplings=1),
    ),
}


def segmenter(name):
    backbone, decoder = CASES[name]
    return Segmenter(backbone, NoAttention(), decoder)


def loaded(case, model, x, probabilities):
    """The golden's parameters, LayerScale as it is and 32 times as large, masked with these probabilities."""
    state = {name: array for name, array in case.state_dict().items() if array.size}
    state |= {"attn_mask_probs": np.asarray(probabilities, np.float32), "criterion.empty_weight": np.ones(8)}
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), from_torch(state, rules_of(LAYOUT)))
    larger = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 32 if "layer_scale" in path[-1].key else leaf, variables
    )
    return variables, larger


def run(model, variables, x, train=False):
    """Output, the masks of the blocks and the normalised tokens at the end."""

    @functools.partial(FAST_COMPILE, static_argnames="train")
    def apply(variables, x, train):
        masks, tokens = [], []

        def record(call, args, kwargs, context):
            if isinstance(context.module, Block) and kwargs.get("tail_mask") is not None:
                masks.append(kwargs["tail_mask"])
            y = call(*args, **kwargs)
            if context.module.name == "norm":
                tokens.append(y)
            return y

        with nn.intercept_methods(record):
            out = model.apply(variables, x, train=train, rngs={"dropout": jax.random.key(0)})
        return out, masks, tokens[-1]

    return apply(variables, x, train)


@pytest.mark.parametrize("name", CASES)
def test_goldens(name, monkeypatch):
    case, model = Golden(name), segmenter(name)
    inputs, (backbone, decoder) = case.inputs(), CASES[name]
    x, blocks = nhwc(inputs["x"]), decoder.blocks
    first, patches = 1 + backbone.registers, (x.shape[1] // 8) * (x.shape[2] // 8)

    def attended(mask):
        assert mask[..., :first].all() and mask[..., first + patches :].all()
        return np.asarray(mask[:, 0, :, first : first + patches], np.int32)

    plain, larger = loaded(case, model, x, [1.0] * blocks)
    out, *_ = run(model, plain, x)
    assert_golden(case, "class_logits", out.queries.classes)
    assert_golden(case, "mask_logits", out.queries.masks)
    assert out.aux_queries == {}

    # In training there are the predictions before the blocks; with these probabilities chance has no part in it.
    monkeypatch.setattr(eomt, "uniform", lambda key, shape: jnp.full(shape, 0.5))
    out, masks, tokens = run(model, larger, x, train=True)
    predictions = [*out.aux_queries.values(), out.queries]
    assert len(predictions) == blocks + 1 and len(masks) == blocks
    for i, queries in enumerate(predictions):
        assert_golden(case, f"gain/on/class_{i}", queries.classes)
        assert_golden(case, f"gain/on/mask_{i}", queries.masks)
    for i, mask in enumerate(masks):
        assert_golden(case, f"gain/on/attend_{i}", attended(mask))
    # The queries stand behind the patches here, and before all others there.
    assert_golden(case, "gain/on/tokens", jnp.concatenate([tokens[:, first + patches :], tokens[:, : first + patches]], 1))
    still, *_ = run(model, larger, x)
    np.testing.assert_allclose(still.queries.masks, out.queries.masks, atol=1e-5)

    _, larger = loaded(case, model, x, [0.0] * blocks)
    out, masks, _ = run(model, larger, x)
    assert all(mask.all() for mask in masks)
    assert_golden(case, f"gain/off/class_{blocks}", out.queries.classes)
    assert_golden(case, f"gain/off/mask_{blocks}", out.queries.masks)

    drawn = iter(inputs["uniform"])
    monkeypatch.setattr(eomt, "uniform", lambda key, shape: jnp.asarray(next(drawn)))
    _, larger = loaded(case, model, x, inputs["probs"])
    out, masks, _ = run(model, larger, x, train=True)
    for i in np.flatnonzero(inputs["probs"]):
        assert_golden(case, f"gain/anneal/attend_{i}", attended(masks[i]))
    if inputs["probs"].all():
        # Elsewhere the original leaves the mask of a block with probability 1 in force in one with probability 0.
        assert_golden(case, f"gain/anneal/class_{blocks}", out.queries.classes)
        assert_golden(case, f"gain/anneal/mask_{blocks}", out.queries.masks)
    else:
        assert masks[2].all()
