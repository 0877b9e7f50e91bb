"""Vision transformers: numbers of timm, DINOv2 and Segmenter, sizes that do not divide, the pyramid, mistakes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones import UNPUBLISHED
from attnseg_jax.models.backbones.pyramid import SimplePyramid
from attnseg_jax.models.backbones.vit import TIMM_VIT, TRANSFORMERS_DINOV2, TRANSFORMERS_VIT, Block, ViT, ViTHead, ViTTi
from attnseg_jax.models.decoders.mask_transformer import SEGMENTER
from attnseg_jax.models.heads import CLASS_HEAD
from attnseg_jax.models.pretrained import from_torch, match

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# timm's vit_*_patch16_224 with their 1000 classes.
PARAMETERS = {"vit_ti": 5_717_416, "vit_s": 22_050_664, "vit_b": 86_567_656, "vit_l": 304_326_632}
SEGMENTER_OPTIONS = {"norm_epsilon": 1e-5, "position_resize": "bilinear", "position_antialias": False}


class Dino(ViT):
    """The sizes of the golden."""

    width, depth, heads = 96, 4, 3
    key = "vit_dino"


class Small(ViT):
    width, depth, heads = 12, 2, 3
    key = "vit_small"


def abstract(model, size, channels=3):
    image = jnp.zeros((2, *size, channels))
    return jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


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


@pytest.mark.parametrize("name", ["backbone_vit_tiny_224", "backbone_vit_tiny_96x160"])
def test_timm(name):
    case = Golden(name)
    x = nhwc(case.inputs()["x"])
    model, head = ViTTi(), ViTHead(1000)
    loaded = from_torch(case.state_dict(), TIMM_VIT)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    scores = from_torch(case.state_dict(), CLASS_HEAD)
    features, logits, seen = watched(model, head)(variables, {"params": scores["params"]}, x)
    assert sorted(features.maps) == [16] and features.covered is None
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
    loaded = from_torch(case.state_dict(), SEGMENTER)
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


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    features, variables = abstract(BACKBONES[name](), (45, 58))
    head = jax.eval_shape(ViTHead(1000).init, jax.random.key(0), features)
    assert size_of(variables) + size_of(head) == PARAMETERS[name]


def test_transformers_names():
    """A state dict under the names and shapes of transformers' ViTForImageClassification fills the backbone."""
    c = 192
    shapes = {
        "vit.embeddings.cls_token": (1, 1, c),
        "vit.embeddings.position_embeddings": (1, 197, c),
        "vit.embeddings.patch_embeddings.projection.weight": (c, 3, 16, 16),
        "vit.embeddings.patch_embeddings.projection.bias": (c,),
        "vit.layernorm.weight": (c,),
        "vit.layernorm.bias": (c,),
        "classifier.weight": (1000, c),
        "classifier.bias": (1000,),
    }
    square = (c, c)
    for i in range(12):
        for name, shape in {
            "layernorm_before": (c,),
            "layernorm_after": (c,),
            "attention.attention.query": square,
            "attention.attention.key": square,
            "attention.attention.value": square,
            "attention.output.dense": square,
            "intermediate.dense": (4 * c, c),
            "output.dense": (c, 4 * c),
        }.items():
            shapes |= {f"vit.encoder.layer.{i}.{name}.weight": shape, f"vit.encoder.layer.{i}.{name}.bias": shape[:1]}
    state = {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(shapes.items())}
    _, variables = abstract(ViTTi(), (45, 58))
    found = match(variables, from_torch(state, TRANSFORMERS_VIT))["params"]
    names = list(shapes)
    for path, source in (
        (("block3", "mlp_out", "kernel"), "vit.encoder.layer.3.output.dense.weight"),
        (("block3", "norm2", "scale"), "vit.encoder.layer.3.layernorm_after.weight"),
    ):
        assert (functools.reduce(dict.__getitem__, path, found) == names.index(source)).all()


@pytest.mark.parametrize(
    "options, size, map_size, covered",
    [
        ({}, (45, 58), (3, 4), (48, 64)),
        ({}, (16, 7), (1, 1), (16, 16)),
        ({"patch_size": 14}, (45, 58), (4, 5), (56, 70)),
        ({"patch_size": 8}, (40, 64), (5, 8), None),
    ],
)
def test_sizes_that_do_not_divide(options, size, map_size, covered):
    model = Small(**options, position_size=(3, 5))
    features, variables = abstract(model, size, 5)
    assert {stride: x.shape for stride, x in features.maps.items()} == {
        8 if options.get("patch_size") == 8 else 16: (2, *map_size, 12)
    }
    assert features.covered == covered
    assert variables["params"]["positions"].shape == (1, 16, 12)
    assert variables["params"]["patch_embed"]["kernel"].shape[2] == 5


def test_logits_lie_where_the_padded_image_had_them(random_variables):
    """The padding is the image's own zeros: a larger image that ends in zeros has the same logits, cropped."""
    x = np.random.default_rng(1).standard_normal((1, 45, 58, 3)).astype(np.float32)
    decoder = {"fcn": {"convs": 0, "aux": True, "aux_stride": 16}}
    model = build_model({"attention": {"name": "none"}, "decoder": decoder}, 7)
    model = model.clone(backbone=Small(position_size=(2, 3)))
    variables = random_variables(model, x)
    found = FAST_COMPILE(model.apply)(variables, x)
    padded = FAST_COMPILE(model.apply)(variables, np.pad(x, [(0, 0), (0, 3), (0, 6), (0, 0)]))
    np.testing.assert_allclose(found.logits, padded.logits[:, :45, :58], atol=1e-6)
    np.testing.assert_allclose(found.aux["fcn"], padded.aux["fcn"][:, :45, :58], atol=1e-6)


def test_a_dropped_branch_leaves_the_shortcut(random_variables):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((40, 5, 12)), jnp.float32)
    model = Block(3, drop_path=0.75, layer_scale=0.5)
    variables = random_variables(model, x)
    params = variables["params"]
    only_attention = {"params": {**params, "layer_scale2": 0 * params["layer_scale2"]}}

    @FAST_COMPILE
    def run(variables, only_attention, x):
        y = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
        whole = Block(3, layer_scale=0.5)
        return y, model.apply(variables, x), whole.apply(variables, x), whole.apply(only_attention, x) - x

    y, still, whole, attended = run(variables, only_attention, x)
    changed = np.abs(y - x).max((1, 2)) > 0
    assert 5 <= changed.sum() <= 30  # 0.44 * 40 = 17 on average
    assert (np.abs(y - (x + 4 * attended)).max((1, 2)) < 1e-4).sum() >= 1
    np.testing.assert_allclose(still, whole, atol=1e-6)


def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def enlarge(x, p):
    """Each pixel becomes four, one for each tap."""
    h, w, _ = x.shape
    y = np.zeros((2 * h, 2 * w, p["bias"].size))
    for i, j, s, t in np.ndindex(h, w, 2, 2):
        y[2 * i + s, 2 * j + t] = x[i, j] @ p["kernel"][s, t] + p["bias"]
    return y


def test_pyramid_against_numpy(random_variables):
    """Levels 4 and 32 of a map of 3 x 5 positions, pixel by pixel in float64."""
    x = np.random.default_rng(2).standard_normal((2, 3, 5, 8)).astype(np.float32)
    model = SimplePyramid(16, 6)
    variables = random_variables(model, x)
    maps = FAST_COMPILE(model.apply)(variables, x)
    assert {s: m.shape for s, m in maps.items()} == {
        4: (2, 12, 20, 6),
        8: (2, 6, 10, 6),
        16: (2, 3, 5, 6),
        32: (2, 2, 3, 6),
    }
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    y = layer_norm(enlarge(x[1].astype(np.float64), p["enlarge4_0"]), p["enlarge_norm4"])
    y = enlarge(0.5 * y * (1 + np.vectorize(math.erf)(y / np.sqrt(2))), p["enlarge4_1"])
    pooled = np.array([[x[1, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1)) for j in range(3)] for i in range(2)])
    for stride, level in ((4, y), (32, pooled)):
        level = layer_norm(level @ p[f"lateral{stride}"]["kernel"][0, 0], p[f"lateral_norm{stride}"])
        padded = np.pad(level, [(1, 1), (1, 1), (0, 0)])
        out = np.zeros(level.shape)
        for i, j, s, t in np.ndindex(*level.shape[:2], 3, 3):
            out[i, j] += padded[i + s, j + t] @ p[f"output{stride}"]["kernel"][s, t]
        np.testing.assert_allclose(maps[stride][1], layer_norm(out, p[f"output_norm{stride}"]), atol=1e-5)


@pytest.mark.parametrize("patch_size, sizes", [(16, [12, 6, 3, 2]), (14, [16, 8, 4, 2]), (8, [12, 6, 3, 2])])
def test_sizes_of_the_pyramid(patch_size, sizes):
    features, variables = abstract(Small(patch_size=patch_size, pyramid=True, pyramid_channels=10), (45, 58))
    assert [name for name in variables["params"] if UNPUBLISHED.match(f"{name}.")] == ["pyramid"]
    assert [features.maps[stride].shape[1] for stride in (4, 8, 16, 32)] == sizes
    assert {x.shape[-1] for x in features.maps.values()} == {10}
    assert features.more == ""


def test_a_stride_of_the_pyramid_alone():
    model = build_model({"backbone": {"name": "vit_ti"}, "decoder": {"name": "fpn"}}, 7)
    cure = r"has 16: set config\.model\.backbone\.vit_ti\.pyramid=True for 4, 8, 16, 32, or change strides"
    with pytest.raises(UserError, match=cure):
        abstract(model, (45, 58))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patch_size": 32}, r"patch_size=32 is unknown: choose 8, 14 or 16"),
        ({"position_resize": "bicubik"}, r"position_resize='bicubik' is unknown: did you mean 'bicubic'\?"),
        ({"position_size": (14, 0)}, r"position_size=\(14, 0\) must be two numbers of at least 1"),
        ({"norm_epsilon": float("nan")}, r"norm_epsilon=nan must be at least 0"),
        ({"layer_scale": -1.0}, r"layer_scale=-1\.0 must be at least 0"),
        ({"pyramid_channels": 0}, r"pyramid_channels=0 must be at least 1"),
        ({"drop_path": 1.0}, r"drop_path=1\.0 must be at least 0 and below 1"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=r"config\.model\.backbone\.vit_ti\." + message):
        abstract(build_model({"backbone": {"name": "vit_ti", "vit_ti": options}}, 7), (45, 58))
