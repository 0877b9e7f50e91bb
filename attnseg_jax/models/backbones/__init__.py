"""Backbones: image -> `Features`."""

import re

from attnseg_jax.models.backbones.convnext import (
    ConvNeXtB,
    ConvNeXtS,
    ConvNeXtT,
    ConvNeXtV2Atto,
    ConvNeXtV2Base,
    ConvNeXtV2Femto,
    ConvNeXtV2Huge,
    ConvNeXtV2Large,
    ConvNeXtV2Nano,
    ConvNeXtV2Pico,
    ConvNeXtV2Tiny,
    DINOv3ConvNeXtB,
    DINOv3ConvNeXtL,
    DINOv3ConvNeXtS,
    DINOv3ConvNeXtT,
)
from attnseg_jax.models.backbones.ddrnet import DDRNet23Slim
from attnseg_jax.models.backbones.dinov3 import DINOv3ViTB, DINOv3ViTL, DINOv3ViTS, DINOv3ViTSPlus
from attnseg_jax.models.backbones.efficientnet import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
)
from attnseg_jax.models.backbones.efficientvit import (
    EfficientViTB0,
    EfficientViTB1,
    EfficientViTB2,
    EfficientViTB3,
)
from attnseg_jax.models.backbones.mit import MiTB0, MiTB1, MiTB2, MiTB3, MiTB4, MiTB5
from attnseg_jax.models.backbones.mobilenet import MobileNetV3Large
from attnseg_jax.models.backbones.mscan import MSCANB, MSCANL, MSCANS, MSCANT
from attnseg_jax.models.backbones.pidnet import PIDNetL, PIDNetM, PIDNetS
from attnseg_jax.models.backbones.resnet import ResNet18, ResNet34, ResNet50, ResNet50V1c, ResNet101, ResNet101V1c
from attnseg_jax.models.backbones.segnet_basic import SegNetBasic
from attnseg_jax.models.backbones.swin import SwinB, SwinL, SwinS, SwinT
from attnseg_jax.models.backbones.tiny import Tiny
from attnseg_jax.models.backbones.unet import UNetEncoder
from attnseg_jax.models.backbones.vgg import VGG16, VGG16_BN
from attnseg_jax.models.backbones.vit import DINOv2B, DINOv2L, DINOv2S, ViTB, ViTL, ViTS, ViTTi, ViTXS

BACKBONES = {
    "tiny": Tiny,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "resnet50_v1c": ResNet50V1c,
    "resnet101_v1c": ResNet101V1c,
    "efficientnet_lite0": EfficientNetLite0,
    "efficientnet_lite1": EfficientNetLite1,
    "efficientnet_lite2": EfficientNetLite2,
    "efficientnet_lite3": EfficientNetLite3,
    "efficientnet_lite4": EfficientNetLite4,
    "mobilenet_v3_large": MobileNetV3Large,
    "vgg16": VGG16,
    "vgg16_bn": VGG16_BN,
    "segnet_basic": SegNetBasic,
    "unet": UNetEncoder,
    "mit_b0": MiTB0,
    "mit_b1": MiTB1,
    "mit_b2": MiTB2,
    "mit_b3": MiTB3,
    "mit_b4": MiTB4,
    "mit_b5": MiTB5,
    "vit_ti": ViTTi,
    "vit_xs": ViTXS,
    "vit_s": ViTS,
    "vit_b": ViTB,
    "vit_l": ViTL,
    "dinov2_vit_s": DINOv2S,
    "dinov2_vit_b": DINOv2B,
    "dinov2_vit_l": DINOv2L,
    "dinov3_vit_s": DINOv3ViTS,
    "dinov3_vit_s_plus": DINOv3ViTSPlus,
    "dinov3_vit_b": DINOv3ViTB,
    "dinov3_vit_l": DINOv3ViTL,
    "swin_t": SwinT,
    "swin_s": SwinS,
    "swin_b": SwinB,
    "swin_l": SwinL,
    "convnext_t": ConvNeXtT,
    "convnext_s": ConvNeXtS,
    "convnext_b": ConvNeXtB,
    "convnextv2_atto": ConvNeXtV2Atto,
    "convnextv2_femto": ConvNeXtV2Femto,
    "convnextv2_pico": ConvNeXtV2Pico,
    "convnextv2_nano": ConvNeXtV2Nano,
    "convnextv2_tiny": ConvNeXtV2Tiny,
    "convnextv2_base": ConvNeXtV2Base,
    "convnextv2_large": ConvNeXtV2Large,
    "convnextv2_huge": ConvNeXtV2Huge,
    "mscan_t": MSCANT,
    "mscan_s": MSCANS,
    "mscan_b": MSCANB,
    "mscan_l": MSCANL,
    "efficientvit_b0": EfficientViTB0,
    "efficientvit_b1": EfficientViTB1,
    "efficientvit_b2": EfficientViTB2,
    "efficientvit_b3": EfficientViTB3,
    "ddrnet23_slim": DDRNet23Slim,
    "pidnet_s": PIDNetS,
    "pidnet_m": PIDNetM,
    "pidnet_l": PIDNetL,
    "dinov3_convnext_t": DINOv3ConvNeXtT,
    "dinov3_convnext_s": DINOv3ConvNeXtS,
    "dinov3_convnext_b": DINOv3ConvNeXtB,
    "dinov3_convnext_l": DINOv3ConvNeXtL,
}
# Names of the parameters that a backbone has on request (`pyramid`, `stage_norms`) and no published weights fill.
UNPUBLISHED = re.compile(r"(pyramid|map_norm\d+)\..*")
