"""The layouts of the files of every original, and options by which one would fit."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models.backbones import BACKBONES, UNPUBLISHED
from attnseg_jax.weights.fit import fit
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch

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
    "backbone_dinov2_reg4_timm_42x84": "timm_vit",
    "backbone_dinov3_vit_tiny_gated": "transformers_dinov3_vit",
    "backbone_dinov3_convnext_tiny": "transformers_dinov3_convnext",
    "backbone_mit_b0": "transformers_segformer",
    "backbone_mscan_tiny": "mmseg_mscan",
    "backbone_efficientvit_b0": "timm_efficientvit",
    "backbone_convnextv2_atto": "timm_convnext",
}
MODEL_FILES = {
    "model_fcn_resnet50": "torchvision_fcn+torchvision_resnet",
    "model_deeplabv3_resnet50": "torchvision_deeplabv3+torchvision_resnet",
    "model_lraspp_mobilenet_v3_large": "torchvision_lraspp+torchvision_mobilenet_v3",
    "model_segformer_b0": "transformers_segformer+transformers_segformer",
    "model_mask2former_resnet_tiny": "transformers_mask2former+transformers_resnet",
    "model_mask2former_swin_tiny": "transformers_mask2former+transformers_swin",
    "model_segmenter_tiny_mask": "segmenter+timm_vit",
    "model_segmenter_tiny_linear": "segmenter+timm_vit",
    "model_pspnet_resnet50": "semseg_pspnet+semseg_resnet_v1c",
    "model_emanet_resnet50": "emanet+emanet_resnet_v1c",
    "model_ocrnet_resnet50": "openseg_ocrnet+torchvision_resnet",
    "model_attunet": "leejunhyun_attunet+leejunhyun_unet",
    "model_segnext_tiny": "mmseg_ham+mmseg_mscan",
    "model_ddrnet23_slim": "mmseg_ddr+mmseg_ddrnet",
    "model_pidnet_s": "mmseg_pid+mmseg_pidnet",
    "model_upernet_swin_tiny": "transformers_upernet+transformers_swin",
    "model_upernet_convnext_tiny": "transformers_upernet+transformers_convnext",
    "model_eomt_tiny": "transformers_eomt+transformers_eomt",
    "model_eomt_dinov3_tiny_5x7": "transformers_eomt+transformers_eomt",
    "model_smp_fpn_resnet18": "smp_fpn+torchvision_resnet",
    "model_smp_unet_resnet18": "smp_unet+torchvision_resnet",
    "model_smp_unet_scse_resnet18": "smp_unet+torchvision_resnet",
    "model_smp_upernet_resnet18": "smp_upernet+torchvision_resnet",
    "model_smp_deeplabv3plus_resnet18": "smp_deeplabv3plus+torchvision_resnet",
    "model_smp_unetplusplus_resnet18": "smp_unetplusplus+torchvision_resnet",
    "model_smp_manet_resnet18": "smp_manet+torchvision_resnet",
    "model_smp_linknet_resnet18": "smp_linknet+torchvision_resnet",
    "model_smp_pan_resnet18": "smp_pan+torchvision_resnet",
    "model_smp_dpt_vit_tiny": "smp_dpt+timm_vit",
    "model_dpt_tiny_48x48": "transformers_dpt+transformers_vit",
}


@functools.cache
def shaped(name):
    """A state dict of the golden's names and shapes."""
    info = json.loads((pathlib.Path(__file__).parents[1] / f"goldens/{name}.json").read_text())
    return {name: np.broadcast_to(np.float32(0.5), shape) for name, shape in info["state_dict"]}


@pytest.mark.parametrize("name, layout", BACKBONE_FILES.items())
def test_the_layout_of_every_backbone(name, layout):
    target = from_torch(shaped(name), rules_of(layout))
    target["params"]["decoder"] = {"kernel": np.ones((3, 3))}
    fitted = fit(shaped(name), target, part="backbone")
    assert fitted.layout == layout and fitted.unfilled == ("params.decoder.kernel",)
    assert not any(word in name for name in fitted.unused for word in ("layer", "block", "features"))


@pytest.mark.parametrize("name, layout", MODEL_FILES.items())
def test_the_layout_of_every_model(name, layout):
    target = from_torch(shaped(name), rules_of(layout))
    # That the encoder's names are told from others is tested above.
    backbone = next(module for module in BACKBONES.values() if layout.partition("+")[2] in module.layouts)
    fitted = fit(shaped(name), target, part="model", backbone=backbone, num_classes=0)
    assert fitted.layout == layout and fitted.unfilled == ()
    del target["params"]["decoder"]
    fitted = fit(shaped(name), target, part="backbone", backbone=backbone)
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
    backbone = BACKBONES[config["backbone"]["name"]]
    fitted = fit(shaped(name), target, part="model", backbone=backbone, num_classes=classes)
    assert fitted.layout == MODEL_FILES[name] and fitted.unfilled == fitted.unused == ()
    # Of other classes the classifiers stay open, that of the regions too.
    other = jax.eval_shape(build_model(config, classes + 2).init, jax.random.key(0), image)
    open_ones = fit(shaped(name), other, part="model", backbone=backbone, num_classes=classes + 2).unfilled
    assert open_ones and all("classifier" in parameter for parameter in open_ones)


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
    "change, options, hint",
    [
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
def test_options_that_would_fit_are_named(change, options, hint):
    changed = {name: np.ones(shape, np.float32) for name, shape in change.items()}
    arrays, backbone = {**shaped("backbone_vit_tiny_224"), **changed}, BACKBONES["vit_ti"](**options)
    with pytest.raises(UserError, match=hint):
        fit(arrays, of_backbone("vit_ti", **options), part="backbone", backbone=backbone)


def test_a_position_table_of_another_size_is_resampled_as_the_backbone_does():
    """The file's table, resampled on loading, against the same table resampled by a backbone that has its size."""
    options = {"position_size": (3, 5), "position_resize": "bilinear", "position_antialias": False}
    backbone, state = BACKBONES["vit_ti"](**options), dict(shaped("backbone_vit_tiny_224"))
    state["pos_embed"] = np.random.default_rng(0).normal(0, 1, (1, 197, 192)).astype(np.float32)
    fitted = fit(state, of_backbone("vit_ti", **options), part="backbone", backbone=backbone)
    assert fitted.resampled == ("params.backbone.positions",)
    table = fitted.variables["params"]["backbone"]["positions"]
    assert table.shape == (1, 16, 192)
    np.testing.assert_array_equal(table[:, 0], state["pos_embed"][:, 0])
    original = BACKBONES["vit_ti"](**options | {"position_size": (14, 14)})
    expected = original._positions(jnp.asarray(state["pos_embed"]), (3, 5))
    np.testing.assert_allclose(table, expected, atol=1e-6)
    # The same size stays as it is.
    same = fit(state, of_backbone("vit_ti"), part="backbone", backbone=BACKBONES["vit_ti"]())
    assert same.resampled == ()
    np.testing.assert_array_equal(same.variables["params"]["backbone"]["positions"], state["pos_embed"])


def test_a_file_of_psanet():
    """Its planes are rows of positions, which the model has as a map; the golden of the mechanism is elsewhere."""
    branches = {"psa.reduce": 1, "psa.attention": 1, "psa.reduce_p": 1, "psa.attention_p": 1, "psa.proj": 2}
    state = {f"{name}.0.weight": np.ones((4 * n, 4, 1, 1), np.float32) for name, n in branches.items()}
    state |= {f"{name}.1.weight": np.ones(4 * n, np.float32) for name, n in branches.items()}
    planes = np.arange(60, dtype=np.float32).reshape(15, 4)
    state |= {f"psa.attention{p}.3.weight": planes[..., None, None] for p in ("", "_p")}
    state |= {"cls.0.weight": np.ones((8, 16, 3, 3)), "cls.4.bias": np.ones(7), "aux.4.bias": np.ones(7)}
    state["layer1.0.conv1.weight"] = np.ones((4, 4, 1, 1))
    layout = "semseg_psanet+semseg_resnet_v1c"
    target = from_torch(state, rules_of(layout))
    assert set(target["params"]) == {"backbone", "attention", "decoder", "aux_head"}
    assert set(target["params"]["attention"]) == {"branch0", "branch1", "proj"}
    for branch in ("branch0", "branch1"):
        assert set(target["params"]["attention"][branch]) == {"reduce", "attention", "planes"}
        target["params"]["attention"][branch]["planes"] = np.zeros((3, 5, 4))
    fitted = fit(state, target, part="model", backbone=BACKBONES["resnet50_v1c"], layout=layout, num_classes=7)
    assert fitted.unfilled == fitted.unused == ()
    found = fitted.variables["params"]["attention"]["branch1"]["planes"]
    np.testing.assert_array_equal(found, planes.reshape(3, 5, 4))
