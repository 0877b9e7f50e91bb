"""Which layout fits a file of weights, what is refused, what stays open."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones import UNPUBLISHED
from attnseg_jax.models.catalogue import CATALOGUE
from attnseg_jax.models.decoders.fcn import TORCHVISION_FCN
from attnseg_jax.models.layouts import LAYOUTS, MODELS, OWN, adapt_channels, fit
from attnseg_jax.models.pretrained import flatten, from_torch
from attnseg_jax.models.sources import locate
from attnseg_jax.models.torch_file import read_torch


@functools.cache
def variables(name="resnet18", image_channels=3, num_classes=7, **decoder):
    config = {"backbone": {"name": name}, "attention": {"name": "none"}, "decoder": {"name": "fcn", "fcn": decoder}}
    model = build_model(config, num_classes)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 49, image_channels)))


# Undoes the table `TORCHVISION_FCN`, and the translation of last words.
SPELLINGS = (
    (r"^\w+\.", ""),
    (r"\b(layer\d)_(\d+)\.", r"\1.\2."),
    (r"downsample_conv", "downsample.0"),
    (r"downsample_bn", "downsample.1"),
    (r"^decoder\.(aux_)?head\.conv\.conv\.", r"\1classifier.0."),
    (r"^decoder\.(aux_)?head\.conv\.bn\.", r"\1classifier.1."),
    (r"^decoder\.(aux_)?head\.classifier\.", r"\1classifier.4."),
    (r"\.(mean|var)$", r".running_\1"),
    (r"\.(kernel|scale)$", ".weight"),
)


@functools.cache
def whole(num_classes=7, **decoder):
    """A file of the whole model in torchvision's layout."""
    arrays = {}
    for name, x in flatten(variables(num_classes=num_classes, **decoder)):
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
    backbone = dict(flatten({k: v["backbone"] for k, v in variables().items()}))
    found = dict(flatten({k: v["backbone"] for k, v in fitted.variables.items()}))
    assert {name: x.shape for name, x in found.items()} == {name: x.shape for name, x in backbone.items()}
    assert {x.dtype for x in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["params.conv1.kernel"], state["conv1.weight"].transpose(2, 3, 1, 0))
    assert all(name.startswith(("params.decoder.", "batch_stats.decoder.")) for name in fitted.unfilled)
    assert len(fitted.unfilled) == len(dict(flatten(variables()))) - len(found)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16])
def test_other_types_and_the_prefix_of_parallel_training(dtype):
    state = resnet18()
    fitted = fit({f"module.{name}": x.astype(dtype) for name, x in state.items()}, variables(), part="backbone")
    found = fitted.variables["params"]["backbone"]["bn1"]["scale"]
    np.testing.assert_array_equal(found, state["bn1.weight"].astype(dtype).astype(np.float32))


def test_a_whole_model_fills_a_backbone():
    fitted = fit(whole(aux=True), variables(), part="backbone")
    assert fitted.layout == "torchvision_fcn"
    assert sorted(fitted.unused) == sorted(name for name in whole(aux=True) if "classifier" in name)
    assert list(fitted.variables["params"]) == ["backbone"]


def test_a_whole_model():
    fitted = fit(whole(aux=True), variables(aux=True), part="model", num_classes=7)
    assert fitted.layout == "torchvision_fcn" and fitted.unused == fitted.unfilled == ()
    assert dict(flatten(fitted.variables)).keys() == dict(flatten(variables(aux=True))).keys()


def test_other_classes_stay_open():
    target = variables(aux=True)
    fitted = fit(whole(num_classes=21, aux=True), target, part="model", num_classes=7)
    expected = [
        f"params.decoder.{head}.classifier.{leaf}" for head in ("aux_head", "head") for leaf in ("bias", "kernel")
    ]
    assert sorted(fitted.unfilled) == sorted(expected)
    # Another width is no other number of classes.
    with pytest.raises(UserError, match=r"read as torchvision_fcn, .*; other shape: .*head.conv.conv.kernel"):
        fit(whole(channels=40), variables(channels=48), part="model", num_classes=7)
    # Nor are two different numbers.
    mixed = whole(aux=True) | {n: x for n, x in whole(num_classes=21, aux=True).items() if n.startswith("classifier.4")}
    mixed |= {n: x for n, x in whole(num_classes=9, aux=True).items() if n.startswith("aux_classifier.4")}
    with pytest.raises(UserError, match=r"aux_head.classifier.bias \(9,\) instead of \(7,\)"):
        fit(mixed, target, part="model", num_classes=7)


def test_weights_of_this_project():
    target = variables()
    arrays = {name: np.full(x.shape, 0.5, np.float32) for name, x in flatten(target)}
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
        fit(resnet18(), variables("resnet50"), part="backbone")
    with pytest.raises(UserError, match=r"missing: params.decoder.* config.model.backbone.pretrained"):
        fit(resnet18(), variables(), part="model", num_classes=7)
    with pytest.raises(UserError, match=r"no known layout"):
        fit(resnet18(), variables("tiny"), part="backbone")


# Golden -> its layout; that this table gives the very names of the model is tested where the golden is.
BACKBONE_FILES = {
    "backbone_resnet18": "torchvision_resnet",
    "backbone_resnet50_os8": "torchvision_resnet",
    "backbone_vgg16_bn": "torchvision_vgg",
    "backbone_swin_t": "torchvision_swin",
    "backbone_convnext_t": "torchvision_convnext",
    "backbone_tf_effnet_lite0": "timm_efficientnet_lite",
    "backbone_vit_tiny_224": "timm_vit",
    "backbone_dinov2_tiny": "transformers_dinov2",
    "backbone_mit_b0": "transformers_segformer",
}
MODEL_FILES = {
    "model_fcn_resnet50": "torchvision_fcn",
    "model_deeplabv3_resnet50": "torchvision_deeplabv3",
    "model_lraspp_mobilenet_v3_large": "torchvision_lraspp",
    "model_segformer_b0": "transformers_segformer_segmentation",
    "model_segmenter_tiny_mask": "segmenter",
    "model_segmenter_tiny_linear": "segmenter",
    "model_pspnet_resnet50": "semseg_pspnet",
    "model_emanet_resnet50": "emanet",
    "model_ocrnet_resnet50": "openseg_ocrnet_resnet",
    "model_attunet": "leejunhyun_attunet",
    "model_smp_fpn_resnet18": "smp_fpn_resnet",
    "model_smp_unet_resnet18": "smp_unet_resnet",
    "model_smp_unet_scse_resnet18": "smp_unet_resnet",
    "model_smp_upernet_resnet18": "smp_upernet_resnet",
    "model_smp_deeplabv3plus_resnet18": "smp_deeplabv3plus_resnet",
}


@functools.cache
def shaped(name):
    """A state dict of the golden's names and shapes."""
    info = json.loads((pathlib.Path(__file__).parents[1] / f"goldens/{name}.json").read_text())
    return {name: np.broadcast_to(np.float32(0.5), shape) for name, shape in info["state_dict"]}


@pytest.mark.parametrize("name, layout", BACKBONE_FILES.items())
def test_the_layout_of_every_backbone(name, layout):
    rules = (*LAYOUTS[layout], (r"^", "backbone."))
    target = from_torch(shaped(name), rules)
    target["params"]["decoder"] = {"kernel": np.ones((3, 3))}
    fitted = fit(shaped(name), target, part="backbone")
    assert fitted.layout == layout and fitted.unfilled == ("params.decoder.kernel",)
    assert not any(word in name for name in fitted.unused for word in ("layer", "block", "features"))


@pytest.mark.parametrize("name, layout", MODEL_FILES.items())
def test_the_layout_of_every_model(name, layout):
    target = from_torch(shaped(name), MODELS[layout])
    fitted = fit(shaped(name), target, part="model", num_classes=0)
    assert fitted.layout == layout and fitted.unfilled == ()
    del target["params"]["decoder"]
    fitted = fit(shaped(name), target, part="backbone")
    assert list(fitted.variables["params"]) == ["backbone"] and fitted.unused


@pytest.mark.parametrize(
    "name, classes, config",
    [
        (
            "model_ocrnet_resnet50",
            19,
            {
                "backbone": {"name": "resnet50", "resnet50": {"output_stride": 8}},
                "attention": {"name": "ocr", "ocr": {"aux_stride": 16}},
                "decoder": {"name": "fcn", "align_corners": True, "fcn": {"convs": 0}},
            },
        ),
        (
            "model_attunet",
            5,
            {
                "backbone": {"name": "unet"},
                "attention": {"name": "gate", "gate": {"form": "leejunhyun"}},
                "decoder": {"name": "unet", "unet": {"form": "leejunhyun", "channels": (512, 256, 128, 64)}},
            },
        ),
    ],
)
def test_files_with_attention_fit_the_model_of_a_config(name, classes, config):
    image = jax.ShapeDtypeStruct((1, 33, 49, 3), jnp.float32)
    target = jax.eval_shape(build_model(config, classes).init, jax.random.key(0), image)
    fitted = fit(shaped(name), target, part="model", num_classes=classes)
    assert fitted.layout == MODEL_FILES[name] and fitted.unfilled == fitted.unused == ()
    # Of other classes the classifiers stay open, that of the regions too.
    other = jax.eval_shape(build_model(config, classes + 2).init, jax.random.key(0), image)
    open_ones = fit(shaped(name), other, part="model", num_classes=classes + 2).unfilled
    assert open_ones and all("classifier" in parameter for parameter in open_ones)


@functools.cache
def with_attention(attention):
    model = build_model({"attention": {"name": attention}}, 7)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 49, 3)))


def test_an_attention_mechanism_that_the_file_has_nothing_of_stays_open():
    arrays = {name: np.full(x.shape, 0.5, np.float32) for name, x in flatten(with_attention("none"))}
    fitted = fit(arrays, with_attention("cbam"), part="model", num_classes=7)
    assert set(fitted.unfilled) == {name for name, _ in flatten(with_attention("cbam"))} - set(arrays)
    assert all(name.split(".")[1] == "attention" for name in fitted.unfilled) and fitted.unused == ()
    assert dict(flatten(fitted.variables)).keys() == arrays.keys()
    # One of which it has something has to be all there.
    arrays = {name: np.full(x.shape, 0.5, np.float32) for name, x in flatten(with_attention("cbam"))}
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
    fitted = fit(state, variables("efficientnet_lite0"), part="backbone")
    assert fitted.layout == published.layout
    assert {name.split(".")[0] for name in fitted.unused} == {"_conv_head", "_bn1", "_fc"}


def of_backbone(name, **options):
    model = build_model({"backbone": {"name": name, name: options}, "attention": {"name": "none"}}, 7)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 49, 3)))


@pytest.mark.parametrize(
    "name, golden, options, count",
    [
        # 2 + 1 transposed convolutions with biases, a norm between two of them, 4 levels of 2 convolutions and norms.
        ("vit_ti", "backbone_vit_tiny_224", {"pyramid": True}, 3 * 2 + 2 + 4 * 2 * 3),
        ("swin_t", "backbone_swin_t", {"stage_norms": True}, 3 * 2),
        ("convnext_t", "backbone_convnext_t", {"stage_norms": True}, 4 * 2),
    ],
)
def test_what_no_published_weights_have_stays_open(name, golden, options, count):
    fitted = fit(shaped(golden), of_backbone(name, **options), part="backbone")
    unfilled = [n.removeprefix("params.backbone.") for n in fitted.unfilled if n.split(".")[1] != "decoder"]
    assert len(unfilled) == count and all(UNPUBLISHED.fullmatch(n) for n in unfilled)


@pytest.mark.parametrize(
    "change, options, cure",
    [
        (
            {},
            {"position_size": (18, 24)},
            r"\.positions \(1, 197, 192\) .*set config.*vit_\*\.position_size=\(14, 14\)$",
        ),
        (
            {"pos_embed": (1, 25, 192)},
            {},
            r"set config\.model\.backbone\.vit_\*\.position_size=\(h, w\) with h \* w = 24$",
        ),
        (
            {},
            {"patch_size": 14, "layer_scale": 0.1},
            r"set config\.model\.backbone\.vit_\*\.patch_size=16, \.layer_scale=0$",
        ),
        ({"blocks.0.ls1.gamma": (192,)}, {}, r"set config\.model\.backbone\.vit_\*\.layer_scale=1e-05$"),
        ({"patch_embed.proj.weight": (96, 3, 14, 14)}, {}, r"instead of \(16, 16, 3, 192\)$"),
    ],
)
def test_options_that_would_fit_are_named(change, options, cure):
    changed = {name: np.ones(shape, np.float32) for name, shape in change.items()}
    with pytest.raises(UserError, match=cure):
        fit({**shaped("backbone_vit_tiny_224"), **changed}, of_backbone("vit_ti", **options), part="backbone")


def test_every_published_name_has_a_layout():
    for name, published in CATALOGUE.items():
        assert published.layout in LAYOUTS and name.split("-")[0] in BACKBONES
    assert not {*LAYOUTS} & {*MODELS}
    assert MODELS["torchvision_fcn"] is TORCHVISION_FCN


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
