"""The layouts of published weights: which names a file has, as tables of rules that turn them into this package's.

A file of a backbone has a layout of `ENCODERS`. One of a whole model has a layout `HEAD+ENCODER`, such as
`smp_fpn+torchvision_resnet`: the names of its encoder go through the encoder's table, all others through that of
`HEADS`. Every head goes with every encoder.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from attnseg_jax.weights.rename import Part, Rules
from attnseg_jax.weights.rules.convnext import (
    TIMM_CONVNEXT,
    TORCHVISION_CONVNEXT,
    TRANSFORMERS_CONVNEXT,
    TRANSFORMERS_DINOV3_CONVNEXT,
)
from attnseg_jax.weights.rules.dpt import SMP_DPT, TRANSFORMERS_DPT
from attnseg_jax.weights.rules.dual_branch import MMSEG_DDR, MMSEG_DDRNET, MMSEG_PID, MMSEG_PIDNET
from attnseg_jax.weights.rules.efficientnet import EFFICIENTNET_LITE_PYTORCH, TIMM_EFFICIENTNET_LITE
from attnseg_jax.weights.rules.efficientvit import TIMM_EFFICIENTVIT
from attnseg_jax.weights.rules.mask2former import AUTHORS_MASK2FORMER, MASK2FORMER
from attnseg_jax.weights.rules.mit import NVLABS_SEGFORMER, TRANSFORMERS_SEGFORMER, TRANSFORMERS_SEGFORMER_HEAD
from attnseg_jax.weights.rules.mobilenet import TORCHVISION_MOBILENET_V3
from attnseg_jax.weights.rules.mscan import MMSEG_HAM, MMSEG_MSCAN
from attnseg_jax.weights.rules.originals import EMANET_HEAD, OCRNET_HEAD, SEGMENTER, SEMSEG_PSANET, SEMSEG_PSPNET
from attnseg_jax.weights.rules.resnet import (
    DETECTRON2_RESNET,
    EMANET_RESNET_V1C,
    MMSEG_RESNET_V1C,
    RESNET,
    SEMSEG_RESNET_V1C,
    TRANSFORMERS_RESNET,
)
from attnseg_jax.weights.rules.smp import (
    SMP_DEEPLABV3PLUS,
    SMP_FPN,
    SMP_LINKNET,
    SMP_MANET,
    SMP_PAN,
    SMP_UNET,
    SMP_UNETPLUSPLUS,
    SMP_UPERNET,
)
from attnseg_jax.weights.rules.swin import TORCHVISION_SWIN, TRANSFORMERS_SWIN
from attnseg_jax.weights.rules.torchvision import TORCHVISION_DEEPLABV3, TORCHVISION_FCN, TORCHVISION_LRASPP
from attnseg_jax.weights.rules.unet import LEEJUNHYUN_ATTUNET, LEEJUNHYUN_UNET
from attnseg_jax.weights.rules.upernet import TRANSFORMERS_UPERNET
from attnseg_jax.weights.rules.vgg import TORCHVISION_VGG
from attnseg_jax.weights.rules.vit import (
    TIMM_VIT,
    TRANSFORMERS_DINOV2,
    TRANSFORMERS_DINOV3_VIT,
    TRANSFORMERS_EOMT,
    TRANSFORMERS_EOMT_HEAD,
    TRANSFORMERS_VIT,
    TUE_DINOV3,
    TUE_EOMT,
)

# Files of a backbone, with or without the classifier that it was trained with. A backbone names those that it reads, as
# `layouts`.
ENCODERS: dict[str, Rules] = {
    # timm's ResNets have the same names.
    "torchvision_resnet": RESNET,
    "mmseg_resnet_v1c": MMSEG_RESNET_V1C,
    "semseg_resnet_v1c": SEMSEG_RESNET_V1C,
    "emanet_resnet_v1c": EMANET_RESNET_V1C,
    "detectron2_resnet": DETECTRON2_RESNET,
    "torchvision_vgg": TORCHVISION_VGG,
    "torchvision_mobilenet_v3": TORCHVISION_MOBILENET_V3,
    "torchvision_swin": TORCHVISION_SWIN,
    "torchvision_convnext": TORCHVISION_CONVNEXT,
    "transformers_dinov3_convnext": TRANSFORMERS_DINOV3_CONVNEXT,
    "timm_efficientnet_lite": TIMM_EFFICIENTNET_LITE,
    **{f"{name}_pytorch": rules for name, rules in EFFICIENTNET_LITE_PYTORCH.items()},
    "timm_vit": TIMM_VIT,
    "transformers_vit": TRANSFORMERS_VIT,
    "transformers_dinov2": TRANSFORMERS_DINOV2,
    "transformers_dinov3_vit": TRANSFORMERS_DINOV3_VIT,
    "transformers_eomt": TRANSFORMERS_EOMT,
    "transformers_segformer": TRANSFORMERS_SEGFORMER,
    "nvlabs_segformer": NVLABS_SEGFORMER,
    "leejunhyun_unet": LEEJUNHYUN_UNET,
    "mmseg_mscan": MMSEG_MSCAN,
    "timm_efficientvit": TIMM_EFFICIENTVIT,
    "timm_convnext": TIMM_CONVNEXT,
    "mmseg_ddrnet": MMSEG_DDRNET,
    "mmseg_pidnet": MMSEG_PIDNET,
    "transformers_resnet": TRANSFORMERS_RESNET,
    "transformers_swin": TRANSFORMERS_SWIN,
    "transformers_convnext": TRANSFORMERS_CONVNEXT,
    "tue_dinov3": TUE_DINOV3,
}


@dataclass(frozen=True)
class Head:
    """The names of a whole model.

    Attributes:
      encoder: regex that matches the beginning of its encoder's names, and no others; what it matches is cut off.
      rules: for all other names.
    """

    encoder: str
    rules: Rules


# As encoders of segmentation_models_pytorch, models of timm stand in `encoder.model`.
_SMP = r"^encoder\.(model\.)?"
HEADS: dict[str, Head] = {
    "torchvision_fcn": Head(r"^backbone\.", TORCHVISION_FCN),
    "torchvision_deeplabv3": Head(r"^backbone\.", TORCHVISION_DEEPLABV3),
    "torchvision_lraspp": Head(r"^backbone\.", TORCHVISION_LRASPP),
    "transformers_segformer": Head(r"^segformer\.", TRANSFORMERS_SEGFORMER_HEAD),
    "transformers_eomt": Head(r"^(?=(embeddings|layers|layernorm)\.)", TRANSFORMERS_EOMT_HEAD),
    "transformers_mask2former": Head(r"^model\.pixel_level_module\.encoder\.", MASK2FORMER),
    "mask2former": Head(r"^backbone\.", AUTHORS_MASK2FORMER),
    "transformers_upernet": Head(r"^backbone\.", TRANSFORMERS_UPERNET),
    "tue_eomt": Head(r"^network\.encoder\.backbone\.", TUE_EOMT),
    "segmenter": Head(r"^encoder\.", SEGMENTER),
    "leejunhyun_attunet": Head(r"^(?=Conv\d\.)", LEEJUNHYUN_ATTUNET),
    "mmseg_ham": Head(r"^backbone\.", MMSEG_HAM),
    "mmseg_ddr": Head(r"^backbone\.", MMSEG_DDR),
    "mmseg_pid": Head(r"^backbone\.", MMSEG_PID),
    "transformers_dpt": Head(r"^dpt\.", TRANSFORMERS_DPT),
    # From here on the originals upsample their logits with `config.model.decoder.align_corners=True`.
    "semseg_pspnet": Head(r"^(?=layer\d\.)", SEMSEG_PSPNET),
    "semseg_psanet": Head(r"^(?=layer\d\.)", SEMSEG_PSANET),
    "emanet": Head(r"^extractor\.", EMANET_HEAD),
    "openseg_ocrnet": Head(r"^backbone\.body\.", OCRNET_HEAD),
    "smp_fpn": Head(_SMP, SMP_FPN),
    "smp_unet": Head(_SMP, SMP_UNET),
    "smp_upernet": Head(_SMP, SMP_UPERNET),
    "smp_deeplabv3plus": Head(_SMP, SMP_DEEPLABV3PLUS),
    "smp_unetplusplus": Head(_SMP, SMP_UNETPLUSPLUS),
    "smp_manet": Head(_SMP, SMP_MANET),
    "smp_linknet": Head(_SMP, SMP_LINKNET),
    "smp_pan": Head(_SMP, SMP_PAN),
    "smp_dpt": Head(_SMP, SMP_DPT),
}


def rules_of(layout: str) -> Rules:
    """The table of a layout, by which names become those of a whole model.

    >>> rules_of("smp_fpn+torchvision_resnet")[0].path
    'backbone.'
    """
    head, _, encoder = layout.rpartition("+")
    if not head:
        return (Part("^", ENCODERS[encoder], "backbone."),)
    return (Part(HEADS[head].encoder, ENCODERS[encoder], "backbone."), *HEADS[head].rules)


def candidates(names: Iterable[str], encoders: Iterable[str]) -> Iterator[str]:
    """The layouts with one of these encoders that a file with these names can have."""
    names, encoders = list(names), list(encoders)
    yield from encoders
    for head, whole in HEADS.items():
        if any(re.match(whole.encoder, name) for name in names):
            yield from (f"{head}+{encoder}" for encoder in encoders)
