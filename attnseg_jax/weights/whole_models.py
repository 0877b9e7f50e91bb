"""Whole models that others published, by name, and the keys of a config that make them.

Figures are those of the papers and model zoos that a comment names; none was measured again here.
"""

from collections.abc import Mapping
from typing import Any

from attnseg_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from attnseg_jax.weights.published import PublishedModel

# Of https://github.com/NVlabs/SegFormer: for research and evaluation alone.
NVIDIA = "NVIDIA Source Code License for SegFormer"
_SCORED = {"ade20k": "ADE20K validation", "cityscapes": "Cityscapes validation"}
_HALF = {"mean": (127.5,) * 3, "std": (127.5,) * 3}


def _windows(side: int, stride: int) -> dict[str, Any]:
    return {"eval.mode": "slide", "eval.window": (side, side), "eval.stride": (stride, stride)}


def _model(
    backbone: str,
    decoder: str,
    backbone_options: Mapping[str, Any] | None = None,
    decoder_options: Mapping[str, Any] | None = None,
    **common: Any,
) -> dict[str, Any]:
    """The keys of a config for a model without attention between backbone and decoder; `common` are the decoder's."""
    return {
        "model.backbone.name": backbone,
        "model.attention.name": "none",
        "model.decoder.name": decoder,
        **{f"model.decoder.{key}": value for key, value in common.items()},
        **{f"model.backbone.{backbone}.{key}": value for key, value in (backbone_options or {}).items()},
        **{f"model.decoder.{decoder}.{key}": value for key, value in (decoder_options or {}).items()},
    }


def _entry(
    source: str, layout: str, licence: str, data: str, side: int, config: Mapping[str, Any], miou: float | None,
    **more: Any,
) -> PublishedModel:  # fmt: skip
    # To a shorter side as long as the crops of the training, unless `config` says otherwise.
    config = {"data.shorter_side": side, **config}
    known = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "input_size": (side, side), "scored_on": _SCORED.get(data, "")}
    return PublishedModel(source, layout, licence, data=data, config=config, miou=miou, **known | more)


def _segformer() -> dict[str, PublishedModel]:
    # Xie et al. 2021, arXiv:2105.15203, table 1, single scale.
    ade = (37.4, 42.2, 46.5, 49.4, 50.3, 51.0)
    cityscapes = (76.2, 78.5, 81.0, 81.7, 82.3, 82.4)
    found = {}
    for i in range(6):
        config = _model(f"mit_b{i}", "segformer", decoder_options={"channels": 256 if i < 2 else 768})
        side = 640 if i == 5 else 512
        for data, name, size, miou in (
            ("ade20k", f"ade-{side}-{side}", side, ade[i]),
            ("cityscapes", "cityscapes-1024-1024", 1024, cityscapes[i]),
        ):
            more = _windows(1024, 768) if data == "cityscapes" else {}
            found[f"segformer_b{i}-{data}"] = _entry(
                f"hf://nvidia/segformer-b{i}-finetuned-{name}/pytorch_model.bin",
                "transformers_segformer+transformers_segformer", NVIDIA, data, size, config | more, miou,
                interpolation="bilinear",
            )  # fmt: skip
    return found


def _upernet() -> dict[str, PublishedModel]:
    # mmsegmentation, configs/swin and configs/convnext, whose files these are, converted; it has no figure of Swin-L in
    # windows of 12.
    swin = {"t": ("tiny", 7, 44.41), "s": ("small", 7, 47.72), "b": ("base", 12, 50.76), "l": ("large", 12, None)}
    convnext = {"t": ("tiny", 46.11), "s": ("small", 48.56), "b": ("base", 48.71)}

    def entry(name: str, encoder: str, config: Mapping[str, Any], miou: float | None) -> PublishedModel:
        source, layout = f"hf://openmmlab/upernet-{name}/pytorch_model.bin", f"transformers_upernet+{encoder}"
        return _entry(source, layout, "MIT", "ade20k", 512, config, miou, interpolation="bilinear")

    found = {}
    for size, (name, window, miou) in swin.items():
        options = {"form": "transformers", "stage_norms": True, "window": window}
        config = _model(f"swin_{size}", "uper", options, {"channels": 512})
        found[f"upernet_swin_{size}-ade20k"] = entry(f"swin-{name}", "transformers_swin", config, miou)
    for size, (name, miou) in convnext.items():
        config = _model(f"convnext_{size}", "uper", {"stage_norms": True}, {"channels": 512})
        found[f"upernet_convnext_{size}-ade20k"] = entry(f"convnext-{name}", "transformers_convnext", config, miou)
    return found


def _mask2former() -> dict[str, PublishedModel]:
    # github.com/facebookresearch/Mask2Former, MODEL_ZOO.md, where the licence stands too. Those with a ResNet are the
    # authors' own files, the others transformers'.
    table = {
        ("resnet50", "ade20k"): ("ade20k/semantic/maskformer2_R50_bs16_160k/model_final_500878", 512, 47.2),
        ("resnet50", "cityscapes"): ("cityscapes/semantic/maskformer2_R50_bs16_90k/model_final_cc1b1f", 1024, 79.4),
        ("swin_t", "ade20k"): ("tiny-ade", 512, 47.7),
        ("swin_s", "ade20k"): ("small-ade", 512, 51.3),
        ("swin_b", "ade20k"): ("base-IN21k-ade", 640, 53.9),
        ("swin_l", "ade20k"): ("large-ade", 640, 56.1),
        ("swin_t", "cityscapes"): ("tiny-cityscapes", 1024, 82.1),
        ("swin_s", "cityscapes"): ("small-cityscapes", 1024, 82.6),
        ("swin_b", "cityscapes"): ("base-IN21k-cityscapes", 1024, 83.3),
        ("swin_l", "cityscapes"): ("large-cityscapes", 1024, 83.3),
    }
    found = {}
    for (backbone, data), (name, side, miou) in table.items():
        if backbone == "resnet50":
            source = f"https://dl.fbaipublicfiles.com/maskformer/mask2former/{name}.pkl"
            layout, options = "mask2former+detectron2_resnet", {}
        else:
            source = f"hf://facebook/mask2former-swin-{name}-semantic/pytorch_model.bin"
            layout = "transformers_mask2former+transformers_swin"
            options = {"form": "transformers", "stage_norms": True, "window": 12 if backbone[-1] in "bl" else 7}
        more = {} if data == "ade20k" else {"input_size": (512, 1024)}
        found[f"mask2former_{backbone}-{data}"] = _entry(
            source, layout, "CC-BY-NC-4.0", data, side, _model(backbone, "mask2former", options), miou,
            interpolation="bilinear", **more,
        )  # fmt: skip
    return found


def _eomt() -> dict[str, PublishedModel]:
    # github.com/tue-mps/eomt, model_zoo/dinov2.md. That of DINOv3 is published by its authors as differences
    # from DINOv3's gated weights, and whole in transformers' form; no figure of it could be looked up.
    dinov2 = {"registers": 4, "layer_scale": 1e-5, "class_position": False, "position_antialias": False}
    found = {}
    for data, name, side, miou in (
        ("ade20k", "ade20k_semantic_eomt_large_512", 512, 58.4),
        ("cityscapes", "cityscapes_semantic_eomt_large_1024", 1024, 84.2),
    ):
        config = _model("vit_l", "eomt", {**dinov2, "position_size": (side // 16, side // 16)}, {"queries": 100})
        found[f"eomt_l-{data}"] = _entry(
            f"hf://tue-mps/{name}/model.safetensors", "transformers_eomt+transformers_eomt", "MIT", data, side,
            config | _windows(side, side), miou, interpolation="bilinear",
        )  # fmt: skip
    # The authors' own code keeps DINOv3's 1e-5 in its norms, transformers takes 1e-6.
    config = _model("dinov3_vit_l", "eomt", {"norm_epsilon": 1e-6}, {"queries": 100}) | _windows(512, 512)
    own = _model("dinov3_vit_l", "eomt", decoder_options={"queries": 100}) | _windows(512, 512)
    licence = "MIT, on top of the DINOv3 License"
    found["eomt_dinov3_l-ade20k"] = _entry(
        "hf://tue-mps/eomt-dinov3-ade-semantic-large-512/model.safetensors", "transformers_eomt+transformers_eomt",
        licence, "ade20k", 512, config, None, interpolation="bilinear",
    )  # fmt: skip
    found["eomt_dinov3_l_delta-ade20k"] = _entry(
        "hf://tue-mps/ade_semantic_eomt_large_512_dinov3/pytorch_model.bin", "tue_eomt+tue_dinov3",
        licence, "ade20k", 512, own, None,
        base="dinov3_vit_l-lvd1689m", interpolation="bilinear",
    )  # fmt: skip
    return found


def _dpt() -> dict[str, PublishedModel]:
    # Ranftl et al. 2021, arXiv:2103.13413, table 4.
    backbone = {"position_size": (24, 24), "position_resize": "bilinear", "position_antialias": False}
    backbone |= {"norm_epsilon": 1e-12, "outputs": (5, 11, 17, 23)}
    decoder = {"reassembled": (256, 512, 1024, 1024), "auxiliary": True}
    return {
        "dpt_l-ade20k": _entry(
            "hf://Intel/dpt-large-ade/pytorch_model.bin", "transformers_dpt+transformers_vit", "Apache-2.0", "ade20k",
            480, _model("vit_l", "dpt", backbone, decoder) | {"data.interpolation": "bicubic"}, 47.63,
            interpolation="bicubic", **_HALF,
        )
    }  # fmt: skip


def _segmenter() -> dict[str, PublishedModel]:
    # github.com/rstrudel/segmenter, README.md, single scale.
    table = {
        ("ti", "ade20k"): ("ade20k/seg_tiny_mask", 3, 512, 38.1),
        ("s", "ade20k"): ("ade20k/seg_small_mask", 6, 512, 45.3),
        ("b", "ade20k"): ("ade20k/seg_base_mask", 12, 512, 48.5),
        ("l", "ade20k"): ("ade20k/seg_large_mask_640", 16, 640, 51.8),
        ("l", "cityscapes"): ("cityscapes/seg_large_mask", 16, 768, 79.1),
    }
    found = {}
    for (size, data), (name, heads, side, miou) in table.items():
        options = {"position_resize": "bilinear", "position_antialias": False, "norm_epsilon": 1e-5}
        options["position_size"] = (side // 16, side // 16)
        config = _model(f"vit_{size}", "mask_transformer", options, {"heads": heads})
        config |= {} if data == "ade20k" else {"data.shorter_side": 1024}
        found[f"segmenter_{size}-{data}"] = _entry(
            f"https://www.rocq.inria.fr/cluster-willow/rstrudel/segmenter/checkpoints/{name}/checkpoint.pth",
            "segmenter+timm_vit", "MIT", data, side, config | _windows(side, side), miou, **_HALF,
        )  # fmt: skip
    return found


def _torchvision() -> dict[str, PublishedModel]:
    # torchvision.models.segmentation, the weights COCO_WITH_VOC_LABELS_V1; the last part of a file's name is of its
    # SHA-256. Output strides are those of the originals.
    table = {
        "fcn_resnet50": ("fcn_resnet50_coco", "1167a1af", "fcn", 60.5),
        "fcn_resnet101": ("fcn_resnet101_coco", "7ecb50ca", "fcn", 63.7),
        "deeplabv3_resnet50": ("deeplabv3_resnet50_coco", "cd0a2569", "deeplabv3", 66.4),
        "deeplabv3_resnet101": ("deeplabv3_resnet101_coco", "586e9e4e", "deeplabv3", 67.4),
        "deeplabv3_mobilenet_v3_large": ("deeplabv3_mobilenet_v3_large", "fc3c493d", "deeplabv3", 60.3),
        "lraspp_mobilenet_v3_large": ("lraspp_mobilenet_v3_large", "d234d4ea", "lraspp", 57.9),
    }
    found = {}
    for name, (file, mark, decoder, miou) in table.items():
        backbone = name.partition("_")[2]
        resnet = backbone.startswith("resnet")
        common = {} if decoder == "lraspp" else {"aux": True, "aux_stride": 16 if resnet else 8}
        encoder = "torchvision_resnet" if resnet else "torchvision_mobilenet_v3"
        own = {"fcn": {"channels": 0}, "deeplabv3": {"rates": (12, 24, 36)}}.get(decoder)
        config = _model(backbone, decoder, {"output_stride": 8 if resnet else 16}, own, **common)
        found[f"{name}-voc"] = _entry(
            f"https://download.pytorch.org/models/{file}-{mark}.pth", f"torchvision_{decoder}+{encoder}",
            "BSD-3-Clause", "voc", 520, config, miou, interpolation="bilinear", sha256=mark,
            scored_on="COCO val2017, VOC's classes",
        )  # fmt: skip
    return found


# The name is that of the model, and of the data set whose classes it knows.
MODELS: dict[str, PublishedModel] = {
    **_segformer(),
    **_upernet(),
    **_mask2former(),
    **_eomt(),
    **_dpt(),
    **_segmenter(),
    **_torchvision(),
}
