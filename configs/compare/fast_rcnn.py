"""Fast R-CNN: regions pooled from one map of ResNet-18, boxes and free forms, two fully connected layers."""

from ml_collections import ConfigDict

from configs.compare import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.kind = "fast_rcnn"
        config.data.regions.method = "felzenszwalb"
        # 50,000 inputs, no normalisation: at the full rate these layers lose half of the classes (docs/comparison).
        config.optimizer.lr_multipliers = ("fc[12]/.*=0.2",)
    return config
