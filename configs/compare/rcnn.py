"""R-CNN: ResNet-18 on two windows of every region, whose scores are painted back."""

from ml_collections import ConfigDict

from configs.compare import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.kind = "rcnn"
        config.model.rcnn.size = 48
        config.data.regions.method = "felzenszwalb"
        # With four images a step 128 regions, as many as the original's mini-batch has windows.
        config.data.regions.sample = 32
    return config
