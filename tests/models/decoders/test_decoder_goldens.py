"""Whole models of the originals: their names into ours, their logits."""

import functools

import jax
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax import build_model
from attnseg_jax.models import ATTENTION, BACKBONES, DECODERS, Segmenter
from attnseg_jax.models.records import RECORDS, attention_records
from attnseg_jax.ops.resize import resize
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import Part, from_torch, match
from attnseg_jax.weights.rules.resnet import RESNET

FAST = {"xla_backend_optimization_level": 0}  # it compiles faster


def variables_of(model, case, layout, image):
    """The golden's parameters, after a check that they are all of the model's and no others."""
    target = jax.eval_shape(model.init, jax.random.key(0), image)
    return match(target, from_torch(case.state_dict(), rules_of(layout)))


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
    rules = (Part(r"^encoder\.", RESNET), (r".*", None))
    return apply(BACKBONES["resnet18"](), from_torch(case.state_dict(), rules), nhwc(case.inputs()["x"]))


def smp(name, head, decoder):
    """The case, the model and its variables."""
    case = Golden(name)
    config = {"backbone": {"name": "resnet18"}, "attention": {"name": "none"}, "decoder": decoder}
    model = build_model(config, num_classes=19)
    return case, model, variables_of(model, case, f"{head}+torchvision_resnet", nhwc(case.inputs()["x"]))


SMP = {
    "model_smp_fpn_resnet18": ("smp_fpn", {"name": "fpn"}),
    "model_smp_unet_resnet18": ("smp_unet", {"name": "unet"}),
    "model_smp_unet_scse_resnet18": ("smp_unet", {"name": "unet", "unet": {"scse": True}}),
    "model_smp_upernet_resnet18": ("smp_upernet", {"name": "uper", "uper": {"norm_maps": True}}),
}


# Of 7 classes; they share the encoder's weights and the image too.
SMP_SEVEN = {
    "model_smp_unetplusplus_resnet18": ("smp_unetplusplus", "unetplusplus"),
    "model_smp_manet_resnet18": ("smp_manet", "manet"),
    "model_smp_linknet_resnet18": ("smp_linknet", "linknet"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SMP_SEVEN)
def test_smp_of_seven_classes(name):
    head, decoder = SMP_SEVEN[name]
    case = Golden(name)
    image = nhwc(case.inputs()["x"])
    config = {"backbone": {"name": "resnet18"}, "attention": {"name": "none"}, "decoder": {"name": decoder}}
    model = build_model(config, num_classes=7)
    variables = variables_of(model, case, f"{head}+torchvision_resnet", image)
    run = functools.partial(model.decoder.apply, capture_intermediates=decoder == "manet", mutable=["intermediates"])
    out, state = jax.jit(run, compiler_options=FAST)(own(variables, "decoder"), encoded(next(iter(SMP_SEVEN))))
    assert_golden(case, "logits", nchw(out.logits))
    if decoder == "manet":
        assert_golden(case, "pab", nchw(state["intermediates"]["attention"]["__call__"][0]))


@pytest.mark.thorough
def test_smp_pan():
    case = Golden("model_smp_pan_resnet18")
    image = nhwc(case.inputs()["x"])
    backbone = BACKBONES["resnet18"](output_stride=16, contract_dilation=False)
    model = Segmenter(backbone, ATTENTION["none"](), DECODERS["pan"](7))
    variables = variables_of(model, case, "smp_pan+torchvision_resnet", image)

    def decoded(model, image):
        return model.decoder(model.backbone(image)).logits

    run = functools.partial(model.apply, method=decoded, capture_intermediates=True, mutable=["intermediates"])
    logits, state = jax.jit(run, compiler_options=FAST)(variables, image)
    assert_golden(case, "fpa", nchw(state["intermediates"]["decoder"]["attention"]["__call__"][0]))
    assert_aligned(case, "logits", logits)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SMP)
def test_smp(name):
    case, model, variables = smp(name, *SMP[name])
    image_like = "model_smp_fpn_resnet18" if "unet" in name else name
    logits = apply(model.decoder, own(variables, "decoder"), encoded(image_like)).logits
    assert_aligned(case, "logits", logits)


def test_smp_deeplabv3plus():
    case = Golden("model_smp_deeplabv3plus_resnet18")
    image = nhwc(case.inputs()["x"])
    backbone = BACKBONES["resnet18"](output_stride=16, contract_dilation=False)
    model = Segmenter(backbone, ATTENTION["none"](), DECODERS["deeplabv3plus"](19, rates=(12, 24, 36)))
    _, logits = parts(model, variables_of(model, case, "smp_deeplabv3plus+torchvision_resnet", image), image)
    assert_aligned(case, "logits", logits)


def test_deeplabv3():
    case = Golden("model_deeplabv3_resnet50")
    image = nhwc(case.inputs()["x"])
    config = {
        "backbone": {"name": "resnet50", "resnet50": {"output_stride": 8}},
        "attention": {"name": "none"},
        "decoder": {"name": "deeplabv3", "aux": True},
    }
    model = build_model(config, num_classes=21)
    out = apply(model, variables_of(model, case, "torchvision_deeplabv3+torchvision_resnet", image), image)
    assert_golden(case, "out", nchw(out.logits))
    assert_golden(case, "aux", nchw(out.aux["fcn"]))


@pytest.mark.thorough
def test_pspnet():
    case = Golden("model_pspnet_resnet50")
    image = nhwc(case.inputs()["x"])
    backbone = {"output_stride": 8, "stem": (64, 64, 128), "contract_dilation": False}
    config = {
        "backbone": {"name": "resnet50_v1c", "resnet50_v1c": backbone},
        "attention": {"name": "none"},
        "decoder": {"name": "psp", "align_corners": True, "aux": True},
    }
    model = build_model(config, num_classes=11)
    out = apply(model, variables_of(model, case, "semseg_pspnet+semseg_resnet_v1c", image), image)
    assert_golden(case, "logits", nchw(out.logits))


@pytest.mark.thorough
def test_lraspp():
    case = Golden("model_lraspp_mobilenet_v3_large")
    image = nhwc(case.inputs()["x"])
    backbone = BACKBONES["mobilenet_v3_large"](output_stride=16)
    model = Segmenter(backbone, ATTENTION["none"](), DECODERS["lraspp"](21))
    out = apply(model, variables_of(model, case, "torchvision_lraspp+torchvision_mobilenet_v3", image), image)
    assert_golden(case, "out", nchw(out.logits))


@pytest.mark.thorough
def test_emanet():
    case = Golden("model_emanet_resnet50")
    image = nhwc(case.inputs()["x"])
    backbone = {"output_stride": 8, "stem": (64, 64, 128), "multi_grid": (1, 2, 4)}
    config = {
        "backbone": {"name": "resnet50_v1c", "resnet50_v1c": backbone},
        "attention": {"name": "ema"},
        "decoder": {"name": "fcn", "align_corners": True, "fcn": {"channels": 256}},
    }
    model = build_model(config, num_classes=21)
    out = apply(model, variables_of(model, case, "emanet+emanet_resnet_v1c", image), image)
    assert_golden(case, "logits", nchw(out.logits))


@pytest.mark.slow
def test_ocrnet():
    case = Golden("model_ocrnet_resnet50")
    image = nhwc(case.inputs()["x"])
    backbone = BACKBONES["resnet50"](output_stride=8)
    model = Segmenter(backbone, ATTENTION["ocr"](19, aux_stride=16), DECODERS["fcn"](19, convs=0))
    aux, logits = parts(model, variables_of(model, case, "openseg_ocrnet+torchvision_resnet", image), image)
    assert_aligned(case, "dsn", aux["ocr"])
    assert_aligned(case, "out", logits)


def test_segformer():
    case = Golden("model_segformer_b0")
    image = nhwc(case.inputs()["x"])
    model = Segmenter(BACKBONES["mit_b0"](), ATTENTION["none"](), DECODERS["segformer"](19))
    _, logits = parts(model, variables_of(model, case, "transformers_segformer+transformers_segformer", image), image)
    assert_golden(case, "logits", nchw(logits))


def test_attention_unet():
    case = Golden("model_attunet")
    image = nhwc(case.inputs()["x"])
    decoder = DECODERS["unet"](5, channels=(512, 256, 128, 64), form="leejunhyun")
    model = Segmenter(BACKBONES["unet"](), ATTENTION["gate"](form="leejunhyun"), decoder)
    variables = variables_of(model, case, "leejunhyun_attunet+leejunhyun_unet", image)
    run = jax.jit(functools.partial(model.apply, mutable=[RECORDS]), compiler_options=FAST)
    out, state = run(variables, image)
    assert_golden(case, "logits", nchw(out.logits))
    assert sorted(attention_records(state[RECORDS])) == ["gate1_0", "gate2_0", "gate4_0", "gate8_0"]
