"""VGG-16: the original's activations, published sizes, poolings that keep the resolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import VGGHead
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import TORCHVISION_VGG_HEAD

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES, Features
from attnseg_jax.models.backbones.vgg import POOL_INDICES
from attnseg_jax.ops import pool
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.vgg import TORCHVISION_VGG


def abstract(model, *inputs):
    return jax.eval_shape(model.init_with_output, jax.random.key(0), *inputs)


def config(output_stride):
    return {"backbone": {"name": "vgg16", "vgg16": {"output_stride": output_stride}}}


@pytest.mark.thorough
def test_activations_of_torchvision():
    case = Golden("backbone_vgg16_bn")
    x = nhwc(case.inputs()["x"])
    model = BACKBONES["vgg16_bn"]()
    loaded = from_torch(case.state_dict(), TORCHVISION_VGG)
    features = jax.jit(model.apply)(match(abstract(model, x)[1], loaded), x)
    assert list(features.maps) == [1, 2, 4, 8, 16, 32]
    found = {f"conv{i}": features.maps[2 ** (i - 1)] for i in range(1, 6)}
    found |= {f"pool{i}": pool.max_pool(found[f"conv{i}"], 2) for i in range(1, 6)}
    assert sorted(found) == sorted(case.info["outputs"])
    for name, value in found.items():
        assert_golden(case, name, nchw(value))
    np.testing.assert_array_equal(features.maps[32], found["pool5"])
    for i, (stride, indices) in enumerate(features.extras[POOL_INDICES].items(), 1):
        flat = features.maps[stride].reshape(1, -1, indices.shape[-1])
        picked = jnp.take_along_axis(flat, indices.reshape(1, -1, indices.shape[-1]), axis=1)
        np.testing.assert_array_equal(picked.reshape(indices.shape), found[f"pool{i}"])
    assert list(features.extras[POOL_INDICES]) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("name, published", [("vgg16", 138_357_544), ("vgg16_bn", 138_365_992)])
def test_published_number_of_parameters(name, published):
    features, variables = abstract(BACKBONES[name](), jnp.zeros((2, 61, 83, 3)))
    scores, head = abstract(VGGHead(1000), features)
    assert scores.shape == (2, 1000) and scores.dtype == jnp.float32
    assert sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head["params"]))) == published


def test_names_of_torchvision():
    """Both forms count their layers as torchvision's `features` do."""
    numbers = {"vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28], "vgg16_bn": []}
    for start, count in ((0, 2), (7, 2), (14, 3), (24, 3), (34, 3)):
        numbers["vgg16_bn"] += [start + 3 * i + step for i in range(count) for step in (0, 1)]
    for name, expected in numbers.items():
        _, variables = abstract(BACKBONES[name](), jnp.zeros((1, 32, 32, 3)))
        assert sorted(variables["params"]) == sorted(f"features{number}" for number in expected)


def test_the_classifier_counts_channels_first():
    """With bins of one pixel each, the first layer is the published matrix times the map as PyTorch flattens it."""
    rng = np.random.default_rng(0)
    state = {f"classifier.{i}.bias": np.zeros(o, np.float32) for i, o in ((0, 4096), (3, 4096), (6, 5))}
    state |= {f"classifier.{i}.weight": np.zeros((o, 4096), np.float32) for i, o in ((3, 4096), (6, 5))}
    state["classifier.0.weight"] = np.zeros((4096, 98), np.float32)
    row = rng.standard_normal(98).astype(np.float32)
    state["classifier.0.weight"][17] = row
    state["classifier.3.weight"][3, 17] = state["classifier.6.weight"][2, 3] = 1
    x = np.abs(rng.standard_normal((1, 2, 7, 7))).astype(np.float32)
    variables = from_torch({**state, "features.0.weight": np.zeros(1)}, TORCHVISION_VGG_HEAD)
    scores = VGGHead(5).apply(variables, Features({32: nhwc(x)}))
    expected = max(float(np.dot(row.astype(np.float64), x.reshape(-1))), 0)
    np.testing.assert_allclose(scores, [[0, 0, expected, 0, 0]], rtol=1e-5)
    assert expected > 0


@pytest.mark.parametrize("output_stride, last", [(32, (1, 2)), (16, (3, 5)), (8, (7, 10))])
def test_sizes_of_the_maps(output_stride, last):
    features, variables = abstract(BACKBONES["vgg16"](output_stride=output_stride), jnp.zeros((2, 61, 83, 3)))
    sizes = [(61, 83), (30, 41), (15, 20), (7, 10), (3, 5) if output_stride > 8 else (7, 10), last]
    channels = [64, 128, 256, 512, 512, 512]
    assert {s: m.shape for s, m in features.maps.items()} == {
        2**i: (2, *size, c) for i, (size, c) in enumerate(zip(sizes, channels, strict=True))
    }
    assert list(features.extras[POOL_INDICES]) == [s for s in (1, 2, 4, 8, 16) if s < output_stride]
    usual = abstract(BACKBONES["vgg16"](), jnp.zeros((2, 61, 83, 3)))[1]
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, usual)


@pytest.mark.thorough
def test_dilated_stages_hold_the_pixels_of_stride_32(random_variables):
    image = np.random.default_rng(1).standard_normal((1, 32, 64, 3)).astype(np.float32)
    usual, fine = (BACKBONES["vgg16"](output_stride=stride) for stride in (32, 8))
    variables = random_variables(usual, image)
    coarse, finer = (jax.jit(functools.partial(model.apply, variables))(image).maps for model in (usual, fine))
    np.testing.assert_allclose(finer[16][:, ::2, ::2], coarse[16], atol=1e-5)
    np.testing.assert_allclose(finer[32][:, ::4, ::4], coarse[32], atol=1e-5)
    assert np.abs(coarse[32]).max() > 0.01


@pytest.mark.parametrize("output_stride", [8, 32])
def test_images_that_are_too_small(output_stride):
    model = BACKBONES["vgg16"](output_stride=output_stride)
    features, _ = abstract(model, jnp.zeros((1, output_stride, 61, 3)))
    assert features.deepest.shape == (1, 1, 61 // output_stride, 512)
    least = f"{output_stride}x{output_stride} pixels, not 61x{output_stride - 1}: "
    with pytest.raises(UserError, match=rf"config\.model\.backbone\.vgg16 needs images of at least {least}"):
        abstract(build_model(config(output_stride), 7), jnp.zeros((1, 61, output_stride - 1, 3)))


def test_unknown_output_stride():
    with pytest.raises(UserError, match=r"config\.model\.backbone\.vgg16_bn\.output_stride=4 .* 8, 16 or 32"):
        build_model({"backbone": {"name": "vgg16_bn", "vgg16_bn": {"output_stride": 4}}}, 7)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_least_size(output_stride):
    model = BACKBONES["vgg16"](output_stride=output_stride)
    features, _ = abstract(model, jnp.zeros((1, output_stride, output_stride + 1, 3)))
    assert features.maps[32].shape[1:3] == (1, 1)
    least = f"{output_stride}x{output_stride} pixels, not {output_stride - 1}x40"
    with pytest.raises(UserError, match=rf"config\.model\.backbone\.vgg16 needs images of at least {least}"):
        abstract(build_model(config(output_stride), 7), jnp.zeros((1, output_stride - 1, 40, 3)))
