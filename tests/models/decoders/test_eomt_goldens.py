"""EoMT: numbers of the original with masked attention, without it and in between, its loss and gradients, its file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from golden import Golden
from layout import assert_golden, nhwc

from attnseg_jax import load_pretrained
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.models.backbones.dinov3 import DINOv3ViT
from attnseg_jax.models.backbones.vit import ViT
from attnseg_jax.models.decoders import eomt
from attnseg_jax.models.decoders.eomt import EoMT
from attnseg_jax.models.layers.vit import Block
from attnseg_jax.models.segmenter import Segmenter
from attnseg_jax.ops import losses
from attnseg_jax.ops.points import class_shares, sample
from attnseg_jax.train.assignment import assign
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.preprocessing import IMAGENET_MEAN
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.safetensors_file import safetensors_bytes

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


def program(model, monkeypatch, train):
    """(variables, image, uniform numbers) -> queries, those before blocks and the masks there, tokens at the end."""

    @FAST_COMPILE
    def apply(variables, x, drawn):
        masks, tokens, drawn = [], [], iter(drawn)
        monkeypatch.setattr(eomt, "uniform", lambda key, shape: next(drawn))

        def record(call, args, kwargs, context):
            if isinstance(context.module, Block) and kwargs.get("tail_mask") is not None:
                masks.append(kwargs["tail_mask"])
            y = call(*args, **kwargs)
            if context.module.name == "norm":
                tokens.append(y)
            return y

        with nn.intercept_methods(record):
            out = model.apply(variables, x, train=train, rngs={"dropout": jax.random.key(0)})
        return out.queries, [*out.aux_queries.values()], masks, tokens[-1]

    return apply


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
def test_goldens(name, monkeypatch):
    case, model = Golden(name), segmenter(name)
    inputs, (backbone, decoder) = case.inputs(), CASES[name]
    x, blocks = nhwc(inputs["x"]), decoder.blocks
    first, patches = 1 + backbone.registers, (x.shape[1] // 8) * (x.shape[2] // 8)
    run = program(model, monkeypatch, True)

    def attended(mask):
        assert mask[..., :first].all() and mask[..., first + patches :].all()
        return np.asarray(mask[:, 0, :, first : first + patches], np.int32)

    # With these probabilities chance has no part in it.
    plain, larger = loaded(case, model, x, [1.0] * blocks)
    queries, *_ = run(plain, x, inputs["uniform"])
    assert_golden(case, "class_logits", queries.classes)
    assert_golden(case, "mask_logits", queries.masks)
    queries, earlier, masks, tokens = run(larger, x, inputs["uniform"])
    assert len(earlier) == len(masks) == blocks
    for i, prediction in enumerate([*earlier, queries]):
        assert_golden(case, f"gain/on/class_{i}", prediction.classes)
        assert_golden(case, f"gain/on/mask_{i}", prediction.masks)
    for i, mask in enumerate(masks):
        assert_golden(case, f"gain/on/attend_{i}", attended(mask))
    # The queries stand behind the patches here, and before all others there.
    order = [*range(first + patches, tokens.shape[1]), *range(first + patches)]
    assert_golden(case, "gain/on/tokens", np.asarray(tokens)[:, order])

    _, unmasked = loaded(case, model, x, [0.0] * blocks)
    queries, _, masks, _ = run(unmasked, x, inputs["uniform"])
    assert all(mask.all() for mask in masks)
    assert_golden(case, f"gain/off/class_{blocks}", queries.classes)
    assert_golden(case, f"gain/off/mask_{blocks}", queries.masks)

    _, between = loaded(case, model, x, inputs["probs"])
    queries, _, masks, _ = run(between, x, inputs["uniform"])
    for i in np.flatnonzero(inputs["probs"]):
        assert_golden(case, f"gain/anneal/attend_{i}", attended(masks[i]))
    if inputs["probs"].all():
        # Elsewhere the original leaves the mask of a block with probability 1 in force in one with probability 0.
        assert_golden(case, f"gain/anneal/class_{blocks}", queries.classes)
        assert_golden(case, f"gain/anneal/mask_{blocks}", queries.masks)
    else:
        assert masks[2].all()


def test_evaluation_masks_where_training_mostly_does(monkeypatch):
    """The goldens again by the program of evaluation, which makes no prediction before the blocks."""
    case, model = Golden("model_eomt_swiglu_4x9"), segmenter("model_eomt_swiglu_4x9")
    x = nhwc(case.inputs()["x"])
    run = program(model, monkeypatch, False)
    for probabilities, name in (([0.7, 0.5], "on"), ([0.49, 0.0], "off")):
        queries, earlier, _, _ = run(loaded(case, model, x, probabilities)[1], x, ())
        assert earlier == []
        assert_golden(case, f"gain/{name}/class_2", queries.classes)
        assert_golden(case, f"gain/{name}/mask_2", queries.masks)


def pairs_of(case, classes, layer):
    """The original's matching `[b, n]` before a layer's block, and its pairs' places in `[b, n]`, in its order."""
    found, places = np.full(classes.shape, 6, np.int32), []
    for i, row in enumerate(classes):
        names = case.expected(f"target/classes_{i}")
        pairs = zip(*(case.expected(f"gain/match/{key}_{i}")[layer] for key in ("pred", "target")), strict=True)
        for query, target in pairs:
            found[i, names[target]] = query
            places.append((i, names[target]))
        assert sorted(names) == sorted(row[row >= 0])
    return jnp.asarray(found), tuple(np.array(places).T)


@pytest.mark.thorough
def test_the_loss_of_every_layer_and_its_gradients(monkeypatch):
    """At the original's points, with its matching, which is found again."""
    case, inputs = Golden("train_eomt_tiny"), Golden("train_eomt_tiny").inputs()
    model = segmenter("model_eomt_tiny")
    model = model.clone(decoder=model.decoder.clone(upsamplings=1))
    x, labels = nhwc(inputs["x"]), jnp.asarray(inputs["semantic"])
    monkeypatch.setattr(eomt, "uniform", lambda key, shape: jnp.full(shape, 0.5))
    _, variables = loaded(case, model, x, [1.0] * 3)
    classes = losses.segments(labels, 7)

    pairs = [pairs_of(case, np.asarray(classes), layer) for layer in range(4)]

    def spread(name):
        result = np.zeros((4, *classes.shape, *inputs[name].shape[2:]), np.float32)
        for layer, (_, places) in enumerate(pairs):
            result[layer][places] = inputs[name][layer]
        return jnp.asarray(result)

    def terms_of(given):
        queries, matching, shared, candidates, rest = given
        costs = losses.matching_costs(
            queries.classes, sample(queries.masks, shared), classes, class_shares(labels, classes, shared),
            class_weight=2.0, mask_weight=5.0, dice_weight=5.0,
        )  # fmt: skip
        masks = jax.vmap(lambda m, i: m.at[i].get(mode="clip"))(queries.masks, matching)
        points = losses.uncertain_points(candidates, sample(masks, candidates), 15)
        points = jnp.concatenate([points, rest], axis=2)
        shares = class_shares(labels, classes, points)
        of_mask, of_dice = losses.mask_losses(sample(masks, points), shares, matching < 6)
        count = losses.segment_count(classes)
        of_class = losses.mean(*losses.class_loss(queries.classes, classes, matching, no_object=0.1))
        return jnp.stack([5 * losses.mean(of_mask, count), 5 * losses.mean(of_dice, count), 2 * of_class]), costs

    matchings = jnp.stack([matching for matching, _ in pairs])
    shared = jnp.asarray(inputs["points/match"])[:, :, None]
    points = shared, spread("points/over"), spread("points/random")

    @FAST_COMPILE
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
        rngs = {"dropout": jax.random.key(0)}
        out = model.apply({**variables, "params": params}, x, train=True, rngs=rngs)
        layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *out.aux_queries.values(), out.queries)
        terms, costs = jax.lax.map(terms_of, (layers, matchings, *points))
        return terms.sum(), (terms, costs)

    gradients, (terms, costs) = gradient(variables["params"])
    assert_golden(case, "gain/terms", terms)
    assert_golden(case, "gain/loss", terms.sum())
    present = jnp.broadcast_to(classes >= 0, (4, *classes.shape)).reshape(-1, 7)
    matched = assign(costs.reshape(-1, *costs.shape[2:]), present).reshape(4, *classes.shape)
    np.testing.assert_array_equal(matched, matchings)

    state = case.state_dict()
    names = [name for name in case.info["outputs"] if name.startswith("gain/grad/")]
    for name in names:
        source = name.removeprefix("gain/grad/")
        ((path, _),) = flatten_dict(from_torch({source: state[source]}, rules_of(LAYOUT))["params"]).items()
        value = np.asarray(functools.reduce(dict.__getitem__, path, gradients))
        order = {"conv1": (2, 3, 0, 1), "conv2": (3, 2, 0, 1)}.get(source.split(".")[-2])
        if order:
            value = value.transpose(order)
        elif path[-1] == "kernel":
            value = value.T
        assert_golden(case, name, value.reshape(case.info["outputs"][name]["shape"]))
    assert len(names) == 12


@pytest.mark.thorough
def test_a_file_of_transformers_through_the_public_path(tmp_path):
    """With the names of the hub, as a whole model by its description."""
    case = Golden("model_eomt_dinov3_tiny_5x7")
    state = case.state_dict() | {"attn_mask_probs": np.ones(3, np.float32), "criterion.empty_weight": np.ones(8)}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(state))
    config = {
        "backbone": {"name": f"{__name__}:TinyV3", "custom": {"patch_size": 8, "norm_epsilon": 1e-6}},
        "attention": {"name": "none"},
        "decoder": {"name": "eomt", "eomt": {"queries": 9, "blocks": 3, "upsamplings": 1}},
    }
    model, variables, info = load_pretrained(tmp_path / "model.safetensors", config, num_classes=7)
    assert info.layout == LAYOUT and info.mean == IMAGENET_MEAN
    out = FAST_COMPILE(model.apply)(variables, nhwc(case.inputs()["x"]))
    assert_golden(case, "class_logits", out.queries.classes)
    assert_golden(case, "mask_logits", out.queries.masks)
    assert out.logits.shape == (2, 40, 56, 7)
