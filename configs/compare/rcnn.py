"""R-CNN: ResNet-18 on two windows of every region, whose scores are painted back.

    python train.py --config=configs/compare/rcnn.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.303, 0.319, 0.302 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


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
