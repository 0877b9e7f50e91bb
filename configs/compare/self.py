"""ResNet-18 and multi-head self-attention over all positions.

    python train.py --config=configs/compare/self.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.460, 0.416, 0.444 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.attention.name = "self"
        config.model.attention.self.update(heads=4, channels=256)
    return config
