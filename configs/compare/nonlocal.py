"""ResNet-18 and a non-local block."""

from ml_collections import ConfigDict

from configs.compare import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.attention.name = "nonlocal"
    return config
