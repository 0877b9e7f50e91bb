"""Vision transformers: numbers of parameters, sizes that do not divide, the pyramid, mistakes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import ViTHead

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones import UNPUBLISHED
from attnseg_jax.models.backbones.pyramid import SimplePyramid
from attnseg_jax.models.backbones.vit import ViT, ViTTi
from attnseg_jax.models.layers.vit import Block
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.vit import TRANSFORMERS_VIT

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# timm's vit_*_patch16_224 with their 1000 classes.
PARAMETERS = {"vit_ti": 5_717_416, "vit_s": 22_050_664, "vit_b": 86_567_656, "vit_l": 304_326_632}


class Small(ViT):
    width, depth, heads = 12, 2, 3


def abstract(model, size, channels=3):
    image = jnp.zeros((2, *size, channels))
    return jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


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
    "options, size, map_size, padded_size",
    [
        ({}, (45, 58), (3, 4), (48, 64)),
        ({}, (16, 7), (1, 1), (16, 16)),
        ({"patch_size": 14}, (45, 58), (4, 5), (56, 70)),
        ({"patch_size": 8}, (40, 64), (5, 8), None),
    ],
)
def test_sizes_that_do_not_divide(options, size, map_size, padded_size):
    model = Small(**options, position_size=(3, 5))
    features, variables = abstract(model, size, 5)
    assert {stride: x.shape for stride, x in features.maps.items()} == {
        8 if options.get("patch_size") == 8 else 16: (2, *map_size, 12)
    }
    assert features.padded_size == padded_size
    assert variables["params"]["positions"].shape == (1, 16, 12)
    assert variables["params"]["patch_embed"]["kernel"].shape[2] == 5


def test_stem_of_convolutions(random_variables):
    """Each halves the map with 4x4 pixels around its own, and a last one mixes the channels."""
    model = Small(patch_size=4, stem="convolutions", position_size=(3, 5))
    x = np.random.default_rng(2).standard_normal((1, 12, 20, 3)).astype(np.float32)
    variables = random_variables(model, x)
    seen = {"capture_intermediates": lambda module, _: module.name == "patch_embed", "mutable": "intermediates"}
    found = model.apply(variables, x, **seen)[1]["intermediates"]["patch_embed"]["__call__"][0]
    params, stats = variables["params"], variables["batch_stats"]
    y = x[0].astype(np.float64)
    for i in range(2):
        part, seen = params[f"stem{i}"], stats[f"stem{i}"]["bn"]
        padded = np.pad(y, ((1, 1), (1, 1), (0, 0)))
        y = np.zeros((y.shape[0] // 2, y.shape[1] // 2, part["conv"]["kernel"].shape[-1]))
        for r, c, s, t in np.ndindex(*y.shape[:2], 4, 4):
            y[r, c] += padded[2 * r + s, 2 * c + t] @ part["conv"]["kernel"][s, t]
        y = (y - seen["mean"]) / np.sqrt(seen["var"] + 1e-5) * part["bn"]["scale"] + part["bn"]["bias"]
        y = np.maximum(y, 0)
    assert [params[f"stem{i}"]["conv"]["kernel"].shape[-1] for i in range(2)] == [6, 12]
    expected = y @ params["patch_embed"]["kernel"][0, 0] + params["patch_embed"]["bias"]
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_logits_lie_where_the_padded_image_had_them(random_variables):
    """The padding is the image's own zeros: a larger image that ends in zeros has the same logits, cropped."""
    x = np.random.default_rng(1).standard_normal((1, 45, 58, 3)).astype(np.float32)
    decoder = {"fcn": {"convs": 0}, "aux": True, "aux_stride": 16}
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


def upsample(x, p):
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
    y = layer_norm(upsample(x[1].astype(np.float64), p["upsample4_0"]), p["upsample_norm4"])
    y = upsample(0.5 * y * (1 + np.vectorize(math.erf)(y / np.sqrt(2))), p["upsample4_1"])
    pooled = np.array([[x[1, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1)) for j in range(3)] for i in range(2)])
    for stride, level in ((4, y), (32, pooled)):
        level = layer_norm(level @ p[f"lateral{stride}"]["kernel"][0, 0], p[f"lateral_norm{stride}"])
        padded = np.pad(level, [(1, 1), (1, 1), (0, 0)])
        out = np.zeros(level.shape)
        for i, j, s, t in np.ndindex(*level.shape[:2], 3, 3):
            out[i, j] += padded[i + s, j + t] @ p[f"output{stride}"]["kernel"][s, t]
        np.testing.assert_allclose(maps[stride][1], layer_norm(out, p[f"output_norm{stride}"]), atol=1e-5)


@pytest.mark.parametrize(
    "patch_size, sizes", [(16, [12, 6, 3, 2]), (14, [16, 8, 4, 2]), (8, [12, 6, 3, 2]), (4, [12, 6, 3, 2])]
)
def test_sizes_of_the_pyramid(patch_size, sizes):
    features, variables = abstract(Small(patch_size=patch_size, pyramid=True, pyramid_channels=10), (45, 58))
    assert [name for name in variables["params"] if UNPUBLISHED.match(f"{name}.")] == ["pyramid"]
    assert [features.maps[stride].shape[1] for stride in (4, 8, 16, 32)] == sizes
    assert {x.shape[-1] for x in features.maps.values()} == {10}
    assert features.hint == ""


def test_a_stride_of_the_pyramid_alone():
    model = build_model({"backbone": {"name": "vit_ti"}, "decoder": {"name": "fpn"}}, 7)
    hint = r"has 16: set config\.model\.backbone\.vit_ti\.pyramid=True for 4, 8, 16, 32, or change strides"
    with pytest.raises(UserError, match=hint):
        abstract(model, (45, 58))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"patch_size": 14, "stem": "convolutions"}, r"stem='convolutions' halves the image again and again"),
        ({"patch_size": 32}, r"patch_size=32 is unknown: choose 4, 8, 14 or 16"),
        ({"position_resize": "bicubik"}, r"position_resize='bicubik' is unknown: did you mean 'bicubic'\?"),
        ({"position_size": (14, 0)}, r"position_size=\(14, 0\) must be 2 numbers of at least 1"),
        ({"norm_epsilon": float("nan")}, r"norm_epsilon=nan must be at least 0"),
        ({"layer_scale": -1.0}, r"layer_scale=-1\.0 must be at least 0"),
        ({"pyramid_channels": 0}, r"pyramid_channels=0 must be at least 1"),
        ({"drop_path": 1.0}, r"drop_path=1\.0 must be at least 0 and below 1"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=r"config\.model\.backbone\.vit_ti\." + message):
        abstract(build_model({"backbone": {"name": "vit_ti", "vit_ti": options}}, 7), (45, 58))
