"""Backbones: image -> `Features`."""

from attnseg_jax.models.backbones.efficientnet import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    EfficientNetLite3,
    EfficientNetLite4,
)
from attnseg_jax.models.backbones.mobilenet import MobileNetV3Large
from attnseg_jax.models.backbones.resnet import ResNet18, ResNet34, ResNet50, ResNet50V1c, ResNet101, ResNet101V1c
from attnseg_jax.models.backbones.tiny import Tiny
from attnseg_jax.models.backbones.vgg import VGG16, VGG16_BN

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
}
