"""FCN: the plain baseline, a ResNet-18 and a convolutional head."""

from ml_collections import ConfigDict

from configs.compare import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    return config
