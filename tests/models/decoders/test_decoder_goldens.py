"""Whole models of the originals: their names into ours, their logits."""

import functools

import jax
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax import build_model
from attnseg_jax.models import ATTENTION, BACKBONES, DECODERS, Features, Segmenter
from attnseg_jax.models.attention.ema import EMANET_HEAD
from attnseg_jax.models.attention.ocr import OCRNET_HEAD
from attnseg_jax.models.backbones.resnet import Block
from attnseg_jax.models.decoders.deeplab import SMP_DEEPLABV3PLUS, TORCHVISION_DEEPLABV3
from attnseg_jax.models.decoders.fpn import SMP_FPN
from attnseg_jax.models.decoders.pyramid import SEMSEG_PSPNET, SMP_UPERNET
from attnseg_jax.models.decoders.segformer import TRANSFORMERS_SEGFORMER_SEGMENTATION
from attnseg_jax.models.decoders.unet import LEEJUNHYUN_ATTUNET, SMP_UNET
from attnseg_jax.models.layers import ConvBN
from attnseg_jax.models.pretrained import RESNET, from_torch, match
from attnseg_jax.ops.pool import max_pool
from attnseg_jax.ops.resize import resize

FAST = {"xla_backend_optimization_level": 0}  # it compiles faster


def variables_of(model, case, rules, image):
    """The golden's parameters, after a check that they are all of the model's and no others."""
    target = jax.eval_shape(model.init, jax.random.key(0), image)
    return match(target, from_torch(case.state_dict(), rules))


def own(variables, part):
    """The variables of one part of a model."""
    return {collection: tree[part] for collection, tree in variables.items() if part in tree}


def apply(module, variables, *args):
    return jax.jit(module.apply, compiler_options=FAST)(variables, *args)


def parts(model, variables, image):
    """Auxiliary logits of the attention mechanism and the decoder's logits, each at the size of its map."""

    def run(model, image):
        features = model.attention(model.backbone(image))
        out = model.decoder(features)
        return {**features.aux, **out.aux}, out.logits

    return jax.jit(lambda *args: model.apply(*args, method=run), compiler_options=FAST)(variables, image)


def assert_aligned(case, name, logits):
    """The originals of these cases enlarge logits with aligned corners."""
    assert_golden(case, name, nchw(resize(logits, case.info["input_shape"][2:], align_corners=True)))


@functools.cache
def encoded(case_name):
    """Features of ResNet-18; most cases share its weights and image, and so a compilation."""
    case = Golden(case_name)
    rules = (*RESNET, (r"^(decoder|segmentation_head)\..*", None), (r"^encoder\.", ""))
    return apply(BACKBONES["resnet18"](), from_torch(case.state_dict(), rules), nhwc(case.inputs()["x"]))


def smp(name, rules, decoder):
    """The case, the model and its variables."""
    case = Golden(name)
    config = {"backbone": {"name": "resnet18"}, "attention": {"name": "none"}, "decoder": decoder}
    model = build_model(config, num_classes=19)
    return case, model, variables_of(model, case, (*RESNET, *rules), nhwc(case.inputs()["x"]))


SMP = {
    "model_smp_fpn_resnet18": (SMP_FPN, {"name": "fpn"}),
    "model_smp_unet_resnet18": (SMP_UNET, {"name": "unet"}),
    "model_smp_unet_scse_resnet18": (SMP_UNET, {"name": "unet", "unet": {"scse": True}}),
    "model_smp_upernet_resnet18": (SMP_UPERNET, {"name": "uper", "uper": {"norm_maps": True}}),
}


@pytest.mark.parametrize("name", SMP)
def test_smp(name):
    case, model, variables = smp(name, *SMP[name])
    image_like = "model_smp_fpn_resnet18" if "unet" in name else name
    logits = apply(model.decoder, own(variables, "decoder"), encoded(image_like)).logits
    assert_aligned(case, "logits", logits)


def test_smp_deeplabv3plus():
    options = {"name": "deeplabv3plus", "deeplabv3plus": {"rates": (12, 24, 36)}}
    case, model, variables = smp("model_smp_deeplabv3plus_resnet18", SMP_DEEPLABV3PLUS, options)

    class Dilated(nn.Module):
        """The last stage with all its convolutions dilated, where torchvision spares the first block."""

        @nn.compact
        def __call__(self, x):
            x = Block(512, False, dilation=2, name="layer4_0")(x, train=False)
            return Block(512, False, dilation=2, name="layer4_1")(x, train=False)

    maps = encoded("model_smp_fpn_resnet18").maps
    backbone = {
        kind: {key: x for key, x in tree.items() if "layer4" in key}
        for kind, tree in own(variables, "backbone").items()
    }
    maps = {**maps, 32: apply(Dilated(), backbone, maps[16])}
    logits = apply(model.decoder, own(variables, "decoder"), Features(maps)).logits
    assert_aligned(case, "logits", logits)


def test_deeplabv3():
    case = Golden("model_deeplabv3_resnet50")
    image = nhwc(case.inputs()["x"])
    config = {
        "backbone": {"name": "resnet50", "resnet50": {"output_stride": 8}},
        "attention": {"name": "none"},
        "decoder": {"name": "deeplabv3", "deeplabv3": {"aux": True}},
    }
    model = build_model(config, num_classes=21)
    out = apply(model, variables_of(model, case, (*RESNET, *TORCHVISION_DEEPLABV3), image), image)
    assert_golden(case, "out", nchw(out.logits))
    assert_golden(case, "aux", nchw(out.aux["fcn"]))


class DeepStem(nn.Module):
    """ResNet-50 with three convolutions at the start and a dilation for every block of the last two stages."""

    dilations: tuple[tuple[int, ...], tuple[int, ...]]

    @nn.compact
    def __call__(self, image, *, train=False):
        x = image
        for i, (channels, stride) in enumerate([(64, 2), (64, 1), (128, 1)]):
            x = ConvBN(channels, stride=stride, name=f"stem{i}")(x, train=train)
        x, maps = max_pool(x, 3, 2, 1), {}
        for stage, dilations in enumerate([(1,) * 3, (1,) * 4, *self.dilations]):
            for i, dilation in enumerate(dilations):
                stride = 2 if stage == 1 and i == 0 else 1
                x = Block(64 * 2**stage, True, stride, dilation, name=f"layer{stage + 1}_{i}")(x, train=train)
            maps[4 * 2**stage] = x
        return Features(maps)


def test_pspnet():
    case = Golden("model_pspnet_resnet50")
    image = nhwc(case.inputs()["x"])
    stem = (
        (r"^layer0\.0\.", "backbone.stem0.conv."),
        (r"^layer0\.1\.", "backbone.stem0.bn."),
        (r"^layer0\.3\.", "backbone.stem1.conv."),
        (r"^layer0\.4\.", "backbone.stem1.bn."),
        (r"^layer0\.6\.", "backbone.stem2.conv."),
        (r"^layer0\.7\.", "backbone.stem2.bn."),
    )
    rules = (*stem, *RESNET, (r"^layer", "backbone.layer"), *SEMSEG_PSPNET)
    model = Segmenter(DeepStem(((2,) * 6, (4,) * 3)), ATTENTION["none"](), DECODERS["psp"](11, aux=True))
    _, logits = parts(model, variables_of(model, case, rules, image), image)
    assert_aligned(case, "logits", logits)


@pytest.mark.slow
def test_emanet():
    case = Golden("model_emanet_resnet50")
    image = nhwc(case.inputs()["x"])
    stem = (
        (r"^extractor\.0\.0\.", "backbone.stem0.conv."),
        (r"^extractor\.0\.1\.", "backbone.stem0.bn."),
        (r"^extractor\.0\.3\.", "backbone.stem1.conv."),
        (r"^extractor\.0\.4\.", "backbone.stem1.bn."),
        (r"^extractor\.0\.6\.", "backbone.stem2.conv."),
        (r"^extractor\.1\.", "backbone.stem2.bn."),
        *((rf"^extractor\.{i + 3}\.", f"layer{i}.") for i in range(1, 5)),
    )
    rules = (*stem, *RESNET, (r"^layer", "backbone.layer"), *EMANET_HEAD)
    backbone = DeepStem(((1,) + (2,) * 5, (2, 8, 16)))
    model = Segmenter(backbone, ATTENTION["ema"](), DECODERS["fcn"](21, channels=256))
    _, logits = parts(model, variables_of(model, case, rules, image), image)
    assert_aligned(case, "logits", logits)


@pytest.mark.slow
def test_ocrnet():
    case = Golden("model_ocrnet_resnet50")
    image = nhwc(case.inputs()["x"])
    rules = (*OCRNET_HEAD, (r"^backbone\.body\.", ""), *RESNET, (r"^(?!attention|decoder)", "backbone."))
    backbone = BACKBONES["resnet50"](output_stride=8)
    model = Segmenter(backbone, ATTENTION["ocr"](19, aux_stride=16), DECODERS["fcn"](19, convs=0))
    aux, logits = parts(model, variables_of(model, case, rules, image), image)
    assert_aligned(case, "dsn", aux["ocr"])
    assert_aligned(case, "out", logits)


def test_segformer():
    case = Golden("model_segformer_b0")
    image = nhwc(case.inputs()["x"])
    model = Segmenter(BACKBONES["mit_b0"](), ATTENTION["none"](), DECODERS["segformer"](19))
    _, logits = parts(model, variables_of(model, case, TRANSFORMERS_SEGFORMER_SEGMENTATION, image), image)
    assert_golden(case, "logits", nchw(logits))


class PlainEncoder(nn.Module):
    """U-Net's own: two convolutions with biases at each stride, maxima between."""

    @nn.compact
    def __call__(self, image, *, train=False):
        maps, x = {}, image
        for i in range(5):
            x = max_pool(x, 2) if i else x
            for j in (1, 2):
                x = ConvBN(64 * 2**i, use_bias=True, name=f"conv{i + 1}_{j}")(x, train=train)
            maps[2**i] = x
        return Features(maps)


def test_attention_unet():
    case = Golden("model_attunet")
    image = nhwc(case.inputs()["x"])
    decoder = DECODERS["unet"](5, channels=(512, 256, 128, 64), form="leejunhyun")
    model = Segmenter(PlainEncoder(), ATTENTION["gate"](form="leejunhyun"), decoder)
    encoder = (
        (r"^Conv(\d)\.conv\.0\.", r"backbone.conv\1_1.conv."),
        (r"^Conv(\d)\.conv\.1\.", r"backbone.conv\1_1.bn."),
        (r"^Conv(\d)\.conv\.3\.", r"backbone.conv\1_2.conv."),
        (r"^Conv(\d)\.conv\.4\.", r"backbone.conv\1_2.bn."),
    )
    out = apply(model, variables_of(model, case, (*encoder, *LEEJUNHYUN_ATTUNET), image), image)
    assert_golden(case, "logits", nchw(out.logits))
    assert sorted(out.attention) == ["gate1_0", "gate2_0", "gate4_0", "gate8_0"]
