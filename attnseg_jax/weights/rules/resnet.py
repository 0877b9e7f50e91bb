"""Names of published ResNets."""

from attnseg_jax.weights.rename import Rules

# torchvision.models.resnet*: `backbones.resnet.ResNet`.
RESNET: Rules = (
    (r"^fc\..*", None),
    (r"\blayer(\d)\.(\d+)\.", r"layer\1_\2."),
    (r"\.downsample\.0\.", ".downsample_conv."),
    (r"\.downsample\.1\.", ".downsample_bn."),
)

_DEEP_STEM: Rules = (
    (r"\bstem\.0\.", "stem1_conv."),
    (r"\bstem\.1\.", "stem1_bn."),
    (r"\bstem\.3\.", "stem2_conv."),
    (r"\bstem\.4\.", "stem2_bn."),
    (r"\bstem\.6\.", "stem3_conv."),
    (r"\bstem\.7\.", "stem3_bn."),
)

# OpenMMLab's ResNetV1c, alone or as the `backbone` of a segmenter: `stem=(32, 32, 64)`.
MMSEG_RESNET_V1C: Rules = (*RESNET, *_DEEP_STEM)

# hszhao/semseg, model/pspnet.py: the backbone of a `Segmenter`, `stem=(64, 64, 128)`, `contract_dilation=False`.
SEMSEG_RESNET_V1C: Rules = ((r"^layer0\.", "stem."), (r"^(stem|layer\d)", r"backbone.\1"), *RESNET, *_DEEP_STEM)

# XiaLiPKU/EMANet: the backbone of a `Segmenter`, `stem=(64, 64, 128)`, `multi_grid=(1, 2, 4)`.
EMANET_RESNET_V1C: Rules = (
    (r"^extractor\.1\.", "backbone.stem3_bn."),
    (r"^extractor\.0\.", "backbone.stem."),
    (r"^extractor\.4\.", "backbone.layer1."),
    (r"^extractor\.5\.", "backbone.layer2."),
    (r"^extractor\.6\.", "backbone.layer3."),
    (r"^extractor\.7\.", "backbone.layer4."),
    *MMSEG_RESNET_V1C,
)
