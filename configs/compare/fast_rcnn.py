"""Fast R-CNN: regions pooled from one map of ResNet-18, boxes and free forms, two fully connected layers.

    python train.py --config=configs/compare/fast_rcnn.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.374, 0.354, 0.305 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.kind = "fast_rcnn"
        config.data.regions.method = "felzenszwalb"
        # 50,000 inputs, no normalisation: at the full rate these layers lose half of the classes (docs/comparison).
        config.optimizer.lr_multipliers = ("fc[12]/.*=0.2",)
    return config
