"""How images were prepared in the training of published weights, by the layout of the names in their file.

Means and deviations are of red, green and blue, on the scale 0..255. A layout that is not here says nothing of it: the
names of timm's ViTs, for one, are those of weights for 127.5 and of others for ImageNet's values.
"""

from collections.abc import Mapping
from typing import Any

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
CHANNEL_ORDERS = ("rgb", "bgr")


def _keys(mean: float | tuple[float, ...], std: float | tuple[float, ...], order: str = "rgb") -> dict[str, Any]:
    """Keys of a config and their values."""
    mean, std = (x if isinstance(x, tuple) else (x,) * 3 for x in (mean, std))
    return {"data.mean": mean, "data.std": std, "data.channel_order": order}


IMAGENET = _keys(IMAGENET_MEAN, IMAGENET_STD)
_HALF = _keys(127.5, 127.5)
_ENCODERS: dict[str, Mapping[str, Any]] = {
    **{f"torchvision_{name}": IMAGENET for name in ("resnet", "vgg", "mobilenet_v3", "swin", "convnext")},
    **dict.fromkeys(("mmseg_resnet_v1c", "semseg_resnet_v1c", "transformers_dinov2"), IMAGENET),
    **dict.fromkeys(("mmseg_ddrnet", "mmseg_pidnet"), IMAGENET),
    **dict.fromkeys(("mmseg_mscan", "timm_efficientvit", "timm_convnext"), IMAGENET),
    **dict.fromkeys(("transformers_dinov3_vit", "transformers_dinov3_convnext", "transformers_eomt"), IMAGENET),
    **dict.fromkeys(("transformers_segformer", "nvlabs_segformer"), IMAGENET),
    **dict.fromkeys(("transformers_resnet", "transformers_swin", "transformers_convnext", "tue_dinov3"), IMAGENET),
    # timm's `tf_efficientnet_lite*`, and Google's own.
    "timm_efficientnet_lite": _HALF,
    **{f"efficientnet_lite{i}_pytorch": _keys(127.0, 128.0) for i in range(5)},
    "leejunhyun_unet": _HALF,
}
_HEADS: dict[str, Mapping[str, Any]] = {
    "leejunhyun_attunet": _HALF,
    "transformers_dpt": _HALF,
    # Of its ViTs; its DeiTs have ImageNet's.
    "segmenter": _HALF,
    **dict.fromkeys(("semseg_pspnet", "semseg_psanet", "mask2former"), IMAGENET),
    # It divides by the mean (dataset.py, `fetch`).
    "emanet": _keys(IMAGENET_MEAN, IMAGENET_MEAN),
    # It reads with OpenCV (configs/cityscapes/R_101_D_8.json: input_mode, normalize).
    "openseg_ocrnet": _keys((122.7717, 115.9465, 102.9801), 1.0, "bgr"),
}


def of_layout(layout: str) -> dict[str, Any]:
    """Keys of a config and the values with which weights of a layout were trained; {} where that is not known.

    >>> of_layout("openseg_ocrnet+mmseg_resnet_v1c")["data.channel_order"], of_layout("smp_fpn+timm_vit")
    ('bgr', {})
    """
    head, _, encoder = layout.rpartition("+")
    return dict(_HEADS.get(head) or _ENCODERS.get(encoder, {}))


def only(known: Mapping[str, Any]) -> dict[str, Any]:
    """What of such keys is of images, not of a backbone's options."""
    return {key: known[key] for key in IMAGENET if key in known}
