"""Mask2Former: the original's pixel decoder and whole models, pre-norm against float64, sizes, types, parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import ATTENTION, Features, Segmenter
from attnseg_jax.models.backbones.base import variant
from attnseg_jax.models.backbones.resnet import ResNet
from attnseg_jax.models.backbones.swin import Swin
from attnseg_jax.models.decoders.mask2former import Mask2Former, PixelDecoder
from attnseg_jax.models.layers.attention import sine_positions
from attnseg_jax.models.records import RECORDS, attention_records
from attnseg_jax.ops import losses
from attnseg_jax.ops.points import class_shares, sample
from attnseg_jax.train.assignment import assign
from attnseg_jax.weights.fit import fit
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.mask2former import MASK2FORMER_PIXEL_DECODER

FAST = {"xla_backend_optimization_level": 0}  # it compiles faster
TinyResNet = variant(ResNet, "TinyResNet", depths=(1, 2, 1, 1), bottleneck=True, widths=(4, 6, 8, 10), stem_width=8)
TinySwin = variant(Swin, "TinySwin", width=12, depths=(1, 2, 1, 1), heads=(1, 2, 3, 4), mlp_ratio=2.0)
COMMON = dict(pixel_channels=32, mask_channels=16, heads=4, pixel_mlp_ratio=1.5)
MODELS = {
    "model_mask2former_resnet_tiny": (
        TinyResNet(),
        Mask2Former(7, channels=24, queries=6, layers=3, mlp_ratio=40 / 24, pixel_layers=1, **COMMON),
        "transformers_mask2former+transformers_resnet",
    ),
    "model_mask2former_swin_tiny": (
        TinySwin(form="transformers", window=4, stage_norms=True),
        Mask2Former(7, channels=32, queries=5, layers=4, mlp_ratio=40 / 32, pixel_layers=2, **COMMON),
        "transformers_mask2former+transformers_swin",
    ),
}


def test_pixel_decoder_of_the_original():
    case = Golden("head_mask2former_pixel_decoder")
    maps = {4 << i: nhwc(case.inputs()[f"stage{i + 1}"]) for i in range(4)}
    model = PixelDecoder(64, 24, layers=2, heads=4, points=4, hidden=48)
    target = jax.eval_shape(model.init, jax.random.key(0), maps)
    variables = match(target, {"params": from_torch(case.state_dict(), MASK2FORMER_PIXEL_DECODER)["params"]})
    levels, pixels = jax.jit(model.apply, compiler_options=FAST)(variables, maps)
    for i, level in enumerate(levels):
        assert_golden(case, f"multi_scale_{i}", nchw(level))
    assert_golden(case, "mask_features", nchw(pixels))
    assert_golden(case, "position_stage4", nchw(sine_positions(2, 3, 64)[None]))


@pytest.mark.thorough
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * ("resnet" in n)) for n in MODELS])
def test_the_original(name):
    """Through the layouts, as a file would be read."""
    case = Golden(name)
    image = nhwc(case.inputs()["x"])
    backbone, decoder, layout = MODELS[name]
    model = Segmenter(backbone, ATTENTION["none"](), decoder)
    target = jax.eval_shape(model.init, jax.random.key(0), image)
    fitted = fit(case.state_dict(), target, part="model", num_classes=7, backbone=backbone)
    assert fitted.layout == layout and fitted.unfilled == ()
    variables = match(target, fitted.variables if target.get("batch_stats") else {"params": fitted.variables["params"]})

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(variables, image):
        def parts(model, image):
            features = model.backbone(image)
            return features, model.decoder(features)

        (features, out), state = model.apply(variables, image, method=parts, mutable=[RECORDS])
        masks = [record.mask for record in attention_records(state[RECORDS]).values()]
        return features.maps, [*out.aux_queries.values(), out.queries], masks

    maps, queries, masks = run(variables, image)
    for stage, stride in enumerate((4, 8, 16, 32), 1):
        assert_golden(case, f"stage{stage}", nchw(maps[stride]))
    for i, found in enumerate(queries):
        assert_golden(case, f"class_{i}", found.classes)
        assert_golden(case, f"mask_{i}", found.masks)
    assert len(queries) == len(masks) + 1 == decoder.layers + 1
    for i, mask in enumerate(masks):
        assert_golden(case, f"masked_{i}", 1 - mask[:, 0].astype(np.int32))


def kernel(*path, axes=(1, 0)):
    """The gradient of a kernel in PyTorch's order of axes."""

    def of(gradients):
        found = functools.reduce(lambda tree, word: tree[word], path, gradients)["kernel"]
        return np.transpose(found, axes)

    return of


TRAINED = {
    "class_predictor.weight": kernel("decoder", "classes"),
    "model.transformer_module.queries_features.weight": lambda g: g["decoder"]["query_tokens"][0],
    "model.transformer_module.queries_embedder.weight": lambda g: g["decoder"]["query_positions"][0],
    "model.transformer_module.level_embed.weight": lambda g: g["decoder"]["level_tokens"],
    "model.transformer_module.decoder.layernorm.weight": lambda g: g["decoder"]["norm"]["scale"],
    "model.transformer_module.decoder.layers.0.cross_attn.in_proj_weight": lambda g: np.concatenate(
        [kernel("decoder", "layer0", "cross_attention", name)(g) for name in ("query", "key", "value")]
    ),
    "model.transformer_module.decoder.mask_predictor.mask_embedder.0.0.weight": kernel("decoder", "mask0"),
    "model.pixel_level_module.decoder.level_embed": lambda g: g["decoder"]["pixel_decoder"]["level_tokens"],
    "model.pixel_level_module.decoder.encoder.layers.0.self_attn.sampling_offsets.weight": kernel(
        "decoder", "pixel_decoder", "layer0", "attention", "offsets"
    ),
    "model.pixel_level_module.decoder.encoder.layers.1.self_attn.attention_weights.bias": lambda g: g["decoder"][
        "pixel_decoder"
    ]["layer1"]["attention"]["weights"]["bias"],
    "model.pixel_level_module.decoder.mask_projection.weight": kernel(
        "decoder", "pixel_decoder", "pixels", axes=(3, 2, 0, 1)
    ),
    "model.pixel_level_module.encoder.embeddings.patch_embeddings.projection.weight": kernel(
        "backbone", "patch_embed", axes=(3, 2, 0, 1)
    ),
}


@pytest.mark.slow
def test_a_training_step_of_the_original():
    """Matching, losses of every layer and gradients down to the backbone, at the original's points."""
    case = Golden("train_mask2former_swin_tiny")
    given = {name: jnp.asarray(value) for name, value in case.inputs().items()}
    image, labels = nhwc(given["x"]), given["semantic"]
    backbone, decoder, _ = MODELS["model_mask2former_swin_tiny"]
    model = Segmenter(backbone, ATTENTION["none"](), decoder.clone(layers=3))
    target = jax.eval_shape(model.init, jax.random.key(0), image)
    fitted = fit(case.state_dict(), target, part="model", num_classes=7, backbone=backbone)
    classes = losses.segments(labels, 7)
    b, n = classes.shape
    places = np.nonzero(np.asarray(classes) >= 0)

    def spread(points, order):
        """Points of the original's pairs, which stand in the order of their queries."""
        return jnp.zeros((b, n, *points.shape[1:])).at[order].set(points)

    def predictions(params):
        out = model.apply({"params": params}, image, train=True)
        return [out.queries, *out.aux_queries.values()]

    matchings, orders = [], []
    for k, queries in enumerate(jax.jit(predictions, compiler_options=FAST)(fitted.variables["params"])):
        points = given["points/match"][k][:, None]
        costs = losses.matching_costs(
            queries.classes, sample(queries.masks, points), classes, class_shares(labels, classes, points),
            class_weight=2.0, mask_weight=5.0, dice_weight=5.0,
        )  # fmt: skip
        matchings.append(assign(costs, classes >= 0))
        found = np.asarray(matchings[-1])
        for i in range(b):
            names = case.expected(f"target/classes_{i}")
            pairs = zip(case.expected(f"match/pred_{i}")[k], case.expected(f"match/target_{i}")[k], strict=True)
            assert {names[t]: q for q, t in pairs} == {c: found[i, c] for c in names}
        by_query = sorted(zip(*places), key=lambda place: (place[0], found[place]))
        orders.append(tuple(np.array(by_query).T))

    def loss(params):
        terms = []
        for k, queries in enumerate(predictions(params)):
            matching = matchings[k]
            masks = jax.vmap(lambda m, i: m.at[i].get(mode="clip"))(queries.masks, matching)
            over, rest = (spread(given[f"points/{key}"][k], orders[k]) for key in ("over", "random"))
            chosen = losses.uncertain_points(over, sample(jax.lax.stop_gradient(masks), over), 15)
            chosen = jnp.concatenate([chosen, rest], axis=2)
            of_mask, of_dice = losses.mask_losses(
                sample(masks, chosen), class_shares(labels, classes, chosen), matching < queries.masks.shape[1]
            )
            count = losses.segment_count(classes)
            of_class = losses.mean(*losses.class_loss(queries.classes, classes, matching, no_object=0.1))
            terms.append(jnp.stack([5 * of_mask / count, 5 * of_dice / count, 2 * of_class]))
        return jnp.stack(terms).sum(), jnp.stack(terms)

    (total, terms), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST)(
        fitted.variables["params"]
    )
    assert_golden(case, "loss", total)
    assert_golden(case, "terms", terms)
    for name, of in TRAINED.items():
        assert_golden(case, f"grad/{name}", of(gradients))


# transformers' Mask2FormerForUniversalSegmentation of 150 classes, less the last norm of Swin, which it does not use.
PARAMETERS = {
    ("resnet50", ()): 44_041_367,
    ("swin_t", (("stage_norms", True),)): 47_441_169 - 2 * 768,
    ("swin_b", (("stage_norms", True), ("window", 12))): 106_924_239 - 2 * 1024,
    ("swin_l", (("stage_norms", True), ("window", 12))): 215_491_851 - 2 * 1536,
}


@pytest.mark.parametrize(
    "name, options",
    [pytest.param(*case, marks=[pytest.mark.slow] * (case[0] != "resnet50")) for case in PARAMETERS],
)
def test_number_of_parameters(name, options):
    config = {"backbone": {"name": name, name: dict(options)}, "decoder": {"name": "mask2former"}}
    model = build_model(config | {"attention": {"name": "none"}}, 150)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 61, 83, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == PARAMETERS[name, options]


RNG = np.random.default_rng(0)
MAPS = {4: (2, 7, 9, 5), 8: (2, 4, 5, 6), 16: (2, 2, 3, 7)}
SMALL = dict(channels=12, queries=4, layers=2, heads=3, mlp_ratio=1.5, pixel_layers=1, points=2, groups=3)


def features(dtype=jnp.float32, cut=0):
    maps = {stride: RNG.standard_normal(shape) for stride, shape in MAPS.items()}
    return Features({stride: jnp.asarray(x[:, : x.shape[1] - cut], dtype) for stride, x in maps.items()})


@pytest.mark.thorough
def test_another_size_bfloat16_and_gradients(random_variables):
    """Every parameter learns from the last layer, or from those before it; a softmax knows no bias of its keys."""
    options = SMALL | {"layers": 1, "strides": (8, 4)}
    variables = random_variables(Mask2Former(7, **options), features())
    model = Mask2Former(7, **options, dtype=jnp.bfloat16)
    given = features(jnp.bfloat16, cut=1)

    @functools.partial(jax.jit, compiler_options=FAST)
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
        out = model.apply({"params": params}, given, train=True)
        queries = [*out.aux_queries.values(), out.queries]
        return sum(jnp.sin(x).sum() for found in queries for x in (found.classes, found.masks)), queries

    found, queries = gradient(variables["params"])
    for one in queries:
        assert one.classes.shape == (2, 4, 8) and one.masks.shape == (2, 4, 6, 9)
        assert one.classes.dtype == one.masks.dtype == jnp.float32
    assert len(queries) == 2
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        if "['key']['bias']" not in jax.tree_util.keystr(path):
            assert np.isfinite(leaf).all() and (leaf != 0).any(), path


def test_options():
    """Maps that are there, other widths, no earlier predictions."""

    def made(maps, **options):
        model = Mask2Former(7, **{**SMALL, **options})
        return jax.eval_shape(model.init_with_output, jax.random.key(0), Features(maps))

    maps = features().maps
    out, variables = made(maps, pixel_channels=6, mask_channels=5, deep_supervision=False)
    assert out.logits is None and out.aux_queries == {}
    shapes = variables["params"]
    assert shapes["memory0"]["kernel"].shape == (1, 1, 6, 12) and shapes["mask2"]["kernel"].shape == (12, 5)
    assert shapes["pixel_decoder"]["level_tokens"].shape == (2, 6) and shapes["level_tokens"].shape == (2, 12)
    # A single map is looked at and compared with.
    out, variables = made({16: maps[16]})
    assert out.queries.masks.shape == (2, 4, 2, 3) and list(out.aux_queries) == ["mask2former0", "mask2former1"]
    assert {"input16", "lateral"} <= {*variables["params"]["pixel_decoder"]}
    with pytest.raises(UserError, match="groups=5 does not divide 12 channels: choose a divisor"):
        made(maps, groups=5)
    with pytest.raises(UserError, match=r"pixel_mlp_ratio=0\.01 must be at least 0\.0833"):
        made(maps, pixel_mlp_ratio=0.01)
