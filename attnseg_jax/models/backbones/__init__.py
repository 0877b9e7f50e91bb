"""Backbones: image -> `Features`."""

from attnseg_jax.models.backbones.resnet import ResNet18, ResNet34, ResNet50, ResNet101
from attnseg_jax.models.backbones.tiny import Tiny
from attnseg_jax.models.backbones.vgg import VGG16, VGG16_BN

BACKBONES = {
    "tiny": Tiny,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "vgg16": VGG16,
    "vgg16_bn": VGG16_BN,
}
