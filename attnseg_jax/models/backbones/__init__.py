"""Backbones: image -> `Features`."""

from attnseg_jax.models.backbones.resnet import ResNet18, ResNet34, ResNet50, ResNet101
from attnseg_jax.models.backbones.tiny import Tiny

BACKBONES = {
    "tiny": Tiny,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
}
