"""How a layout is chosen for a file of weights, what is refused, what stays open."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden import Golden

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES, DECODERS
from attnseg_jax.weights import fit as module
from attnseg_jax.weights.catalogue import CATALOGUE
from attnseg_jax.weights.fit import OWN, adapt_channels
from attnseg_jax.weights.layouts import ENCODERS
from attnseg_jax.weights.locate import locate
from attnseg_jax.weights.torch_file import read_torch


def fit(arrays, variables, *, backbone="resnet18", **options):
    return module.fit(arrays, variables, backbone=BACKBONES[backbone], **options)


@functools.cache
def variables(name="resnet18", image_channels=3, num_classes=7, aux=False, **options):
    decoder = {"name": "fcn", "aux": aux, "fcn": options}
    config = {"backbone": {"name": name}, "attention": {"name": "none"}, "decoder": decoder}
    model = build_model(config, num_classes)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 49, image_channels)))


# Undoes the layout `torchvision_fcn+torchvision_resnet`, and the translation of last words.
SPELLINGS = (
    (r"^\w+\.", ""),
    (r"\b(layer\d)_(\d+)\.", r"\1.\2."),
    (r"downsample_conv", "downsample.0"),
    (r"downsample_bn", "downsample.1"),
    (r"^(decoder\.|(aux_))head\.conv\.conv\.", r"\2classifier.0."),
    (r"^(decoder\.|(aux_))head\.conv\.bn\.", r"\2classifier.1."),
    (r"^(decoder\.|(aux_))head\.classifier\.", r"\2classifier.4."),
    (r"\.(mean|var)$", r".running_\1"),
    (r"\.(kernel|scale)$", ".weight"),
)


@functools.cache
def whole(num_classes=7, **decoder):
    """A file of the whole model in torchvision's layout."""
    arrays = {}
    for name, x in flatten_dict(variables(num_classes=num_classes, **decoder), sep=".").items():
        for pattern, replacement in SPELLINGS:
            name = re.sub(pattern, replacement, name)
        arrays[name] = np.full([x.shape[i] for i in ((3, 2, 0, 1) if len(x.shape) == 4 else range(len(x.shape)))], 0.5)
    return arrays


def resnet18():
    return Golden("train_resnet18").state_dict()


def test_a_backbone_of_torchvision():
    state = {**resnet18(), "bn1.num_batches_tracked": np.array(3)}
    fitted = fit(state, variables(), part="backbone")
    assert fitted.layout == "torchvision_resnet"
    assert fitted.unused == ("fc.weight", "fc.bias") and fitted.adapted == ()
    backbone = flatten_dict({k: v["backbone"] for k, v in variables().items()}, sep=".")
    found = flatten_dict({k: v["backbone"] for k, v in fitted.variables.items()}, sep=".")
    assert {name: x.shape for name, x in found.items()} == {name: x.shape for name, x in backbone.items()}
    assert {x.dtype for x in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["params.conv1.kernel"], state["conv1.weight"].transpose(2, 3, 1, 0))
    assert all(name.startswith(("params.decoder.", "batch_stats.decoder.")) for name in fitted.unfilled)
    assert len(fitted.unfilled) == len(flatten_dict(variables(), sep=".")) - len(found)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16])
def test_other_types_and_the_prefix_of_parallel_training(dtype):
    state = resnet18()
    fitted = fit({f"module.{name}": x.astype(dtype) for name, x in state.items()}, variables(), part="backbone")
    found = fitted.variables["params"]["backbone"]["bn1"]["scale"]
    np.testing.assert_array_equal(found, state["bn1.weight"].astype(dtype).astype(np.float32))


def test_a_whole_model_fills_a_backbone():
    fitted = fit(whole(aux=True), variables(), part="backbone")
    assert fitted.layout == "torchvision_fcn+torchvision_resnet"
    assert sorted(fitted.unused) == sorted(name for name in whole(aux=True) if "classifier" in name)
    assert list(fitted.variables["params"]) == ["backbone"]


def test_a_whole_model():
    fitted = fit(whole(aux=True), variables(aux=True), part="model", num_classes=7)
    assert fitted.layout == "torchvision_fcn+torchvision_resnet" and fitted.unused == fitted.unfilled == ()
    assert flatten_dict(fitted.variables, sep=".").keys() == flatten_dict(variables(aux=True), sep=".").keys()


def test_other_classes_stay_open():
    target = variables(aux=True)
    fitted = fit(whole(num_classes=21, aux=True), target, part="model", num_classes=7)
    expected = [
        f"params.{head}.classifier.{leaf}" for head in ("aux_head", "decoder.head") for leaf in ("bias", "kernel")
    ]
    assert sorted(fitted.unfilled) == sorted(expected)
    # Another width is no other number of classes.
    with pytest.raises(
        UserError, match=r"read as torchvision_fcn\+torchvision_resnet, .*; other shape: .*head.conv.conv.kernel"
    ):
        fit(whole(channels=40), variables(channels=48), part="model", num_classes=7)
    # Nor are two different numbers.
    mixed = whole(aux=True) | {n: x for n, x in whole(num_classes=21, aux=True).items() if n.startswith("classifier.4")}
    mixed |= {n: x for n, x in whole(num_classes=9, aux=True).items() if n.startswith("aux_classifier.4")}
    with pytest.raises(UserError, match=r"aux_head.classifier.bias \(9,\) instead of \(7,\)"):
        fit(mixed, target, part="model", num_classes=7)


@pytest.mark.parametrize(
    "decoder", [pytest.param(name, marks=[pytest.mark.slow] * (name != "masked_attention")) for name in DECODERS]
)
def test_what_depends_on_the_classes_stays_open(decoder):
    """Whatever it is: the heads of `masked_attention` know one class more, 'no object'."""

    def shapes(classes):
        config = {"attention": {"name": "none"}, "decoder": {"name": decoder}}
        for backbone in ("tiny", "resnet18", "vgg16", "vit_ti"):
            model = build_model({**config, "backbone": {"name": backbone}}, classes)
            try:
                return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 96, 3)))
            except UserError:
                continue
        raise AssertionError(decoder)

    seven, five = (flatten_dict(shapes(classes), sep=".") for classes in (7, 5))
    dependent = {name for name in seven if seven[name].shape != five[name].shape}
    given = {name: np.zeros(x.shape, np.float32) for name, x in seven.items()}
    assert {*module.fit(given, shapes(5), part="model", num_classes=5).unfilled} == dependent != set()


def test_weights_of_this_project():
    target = variables()
    arrays = {name: np.full(x.shape, 0.5, np.float32) for name, x in flatten_dict(target, sep=".").items()}
    assert fit(arrays, target, part="model", num_classes=7).layout == OWN
    fitted = fit(arrays, variables(num_classes=9), part="backbone")
    assert fitted.layout == OWN and all(".decoder." in name for name in fitted.unused)
    assert len(fitted.unused) == len(fitted.unfilled) == 7


@pytest.mark.parametrize(
    "change, words",
    [
        # A deeper one has all names of the shallower.
        (lambda s: s | {"layer1.2.conv1.weight": np.ones((64, 64, 3, 3))}, ["unused: params.backbone.layer1_2"]),
        (lambda s: {n: x for n, x in s.items() if "layer4" not in n}, ["missing: ", "layer4_0.conv1.kernel", "more"]),
        (lambda s: s | {"bn1.weight": np.ones(65)}, ["other shape: ", "bn1.scale (65,) instead of (64,)"]),
        (lambda s: s | {"bn1.weight": np.full(64, np.nan)}, ["not all numbers are finite", "bn1.scale"]),
        (lambda s: s | {"bn1.weight": np.ones(64, complex)}, ["bn1.scale holds complex128"]),
        (lambda s: s | {"bn1.weight": np.full(64, "a")}, ["bn1.scale holds <U1"]),
        (lambda s: s | {"bn1": np.ones(3)}, ["no known layout"]),
        (
            lambda s: {f"visual.{n}": x for n, x in s.items()},
            ["visual.conv1.weight", "conv1.kernel", "torchvision_fcn"],
        ),
        (lambda s: {}, ["no known layout"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_names(change, words):
    with pytest.raises(UserError) as error:
        fit(change(resnet18()), variables(), part="backbone")
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value) and len(str(error.value)) < 1500


def test_another_architecture():
    with pytest.raises(UserError, match=r"read as torchvision_resnet, .*missing: .*conv3.*; other shape: .*"):
        fit(resnet18(), variables("resnet50"), backbone="resnet50", part="backbone")
    with pytest.raises(UserError, match=r"missing: params.decoder.* config.model.backbone.pretrained"):
        fit(resnet18(), variables(), part="model", num_classes=7)
    with pytest.raises(UserError, match=r"no known layout"):
        fit(resnet18(), variables("tiny"), backbone="tiny", part="backbone")


@functools.cache
def with_attention(attention):
    model = build_model({"attention": {"name": attention}}, 7)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 49, 3)))


def test_an_attention_mechanism_that_the_file_has_nothing_of_stays_open():
    arrays = {
        name: np.full(x.shape, 0.5, np.float32) for name, x in flatten_dict(with_attention("none"), sep=".").items()
    }
    fitted = fit(arrays, with_attention("cbam"), part="model", num_classes=7)
    assert set(fitted.unfilled) == {*flatten_dict(with_attention("cbam"), sep=".")} - set(arrays)
    assert all(name.split(".")[1] == "attention" for name in fitted.unfilled) and fitted.unused == ()
    assert flatten_dict(fitted.variables, sep=".").keys() == arrays.keys()
    # One of which it has something has to be all there.
    arrays = {
        name: np.full(x.shape, 0.5, np.float32) for name, x in flatten_dict(with_attention("cbam"), sep=".").items()
    }
    first = fitted.unfilled[0]
    with pytest.raises(UserError, match=rf"missing: {first}$"):
        fit({n: x for n, x in arrays.items() if n != first}, with_attention("cbam"), part="model", num_classes=7)
    with pytest.raises(UserError, match=r"unused: batch_stats\.attention"):
        fit(arrays, with_attention("none"), part="model", num_classes=7)
    # Nor does the rest of the model stay open.
    with pytest.raises(UserError, match=r"missing: params\.decoder"):
        fit(resnet18(), variables(), part="model", num_classes=7)


def test_a_file_of_the_efficientnet_package():
    published = CATALOGUE["efficientnet_lite0-imagenet"]
    state = read_torch(locate("efficientnet_lite0-imagenet", key="--from").path)
    fitted = fit(state, variables("efficientnet_lite0"), backbone="efficientnet_lite0", part="backbone")
    assert fitted.layout == published.layout
    assert {name.split(".")[0] for name in fitted.unused} == {"_conv_head", "_bn1", "_fc"}


def test_every_layout_of_an_encoder_is_that_of_a_backbone():
    read = {layout for backbone in BACKBONES.values() for layout in getattr(backbone, "layouts", ())}
    assert read == {*ENCODERS}


def test_channels_by_hand():
    kernel = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(adapt_channels(kernel, 1), kernel[:, :, :1] + kernel[:, :, 1:2] + kernel[:, :, 2:])
    two, seven = adapt_channels(kernel, 2), adapt_channels(kernel, 7)
    np.testing.assert_allclose(two, kernel[:, :, [0, 1]] * 1.5)
    np.testing.assert_allclose(seven, kernel[:, :, [0, 1, 2, 0, 1, 2, 0]] * (3 / 7), rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_of_another_number_of_channels(channels):
    state = resnet18()
    fitted = fit(state, variables(image_channels=channels), part="backbone")
    assert fitted.adapted == ("params.backbone.conv1.kernel",)
    kernel = fitted.variables["params"]["backbone"]["conv1"]["kernel"]
    assert kernel.shape == (7, 7, channels, 64)
    np.testing.assert_array_equal(kernel, adapt_channels(state["conv1.weight"].transpose(2, 3, 1, 0), channels))


def test_a_number_where_an_array_is_cut():
    with pytest.raises(UserError, match="known layouts"):
        fit({"blocks.0.attn.qkv.weight": np.array(1.0)}, variables(), part="backbone")
