"""Names of published ResNets."""

from attnseg_jax.weights.rename import Rules

# torchvision.models.resnet*, and timm's: `ResNet`.
RESNET: Rules = (
    (r"^fc\..*", None),
    (r"\blayer(\d)\.(\d+)\.", r"layer\1_\2."),
    (r"\.downsample\.0\.", ".downsample_conv."),
    (r"\.downsample\.1\.", ".downsample_bn."),
)

# transformers' ResNetModel, and the encoder of its other models: `ResNet`.
TRANSFORMERS_RESNET: Rules = (
    (r"^classifier\..*", None),
    (r"^resnet\.", ""),
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    *((rf"^encoder\.stages\.{i}\.layers\.(\d+)\.", rf"layer{i + 1}_\1.") for i in range(4)),
    (r"\bshortcut\.convolution\.", "downsample_conv."),
    (r"\bshortcut\.normalization\.", "downsample_bn."),
    *((rf"\blayer\.{i}\.convolution\.", f"conv{i + 1}.") for i in range(3)),
    *((rf"\blayer\.{i}\.normalization\.", f"bn{i + 1}.") for i in range(3)),
)

# detectron2's ResNet with strides in its 3x3 convolutions: `ResNet`.
DETECTRON2_RESNET: Rules = (
    (r"^stem\.", ""),
    *((rf"^res{i + 1}\.(\d+)\.", rf"layer{i}_\1.") for i in (1, 2, 3, 4)),
    (r"\bconv(\d)\.norm\.", r"bn\1."),
    (r"\bshortcut\.norm\.", "downsample_bn."),
    (r"\bshortcut\.", "downsample_conv."),
)

_DEEP_STEM: Rules = (
    (r"\bstem\.0\.", "stem1_conv."),
    (r"\bstem\.1\.", "stem1_bn."),
    (r"\bstem\.3\.", "stem2_conv."),
    (r"\bstem\.4\.", "stem2_bn."),
    (r"\bstem\.6\.", "stem3_conv."),
    (r"\bstem\.7\.", "stem3_bn."),
)

# OpenMMLab's ResNetV1c: `ResNetV1c` with `stem=(32, 32, 64)`.
MMSEG_RESNET_V1C: Rules = (*RESNET, *_DEEP_STEM)

# hszhao/semseg, model/pspnet.py: `stem=(64, 64, 128)`, `contract_dilation=False`.
SEMSEG_RESNET_V1C: Rules = ((r"^layer0\.", "stem."), *MMSEG_RESNET_V1C)

# XiaLiPKU/EMANet, behind `extractor.`: `stem=(64, 64, 128)`, `multi_grid=(1, 2, 4)`.
EMANET_RESNET_V1C: Rules = (
    (r"^1\.", "stem3_bn."),
    (r"^0\.", "stem."),
    *((rf"^{i + 3}\.", f"layer{i}.") for i in (1, 2, 3, 4)),
    *MMSEG_RESNET_V1C,
)
