"""ResNet-18 and multi-head self-attention over all positions."""

from ml_collections import ConfigDict

from configs.compare import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.attention.name = "self"
        config.model.attention.self.update(heads=4, channels=256)
    return config
