"""ResNet-18 and similarity-weighted prediction: scores become the mean of those of pixels around that resemble it.

    python train.py --config=configs/compare/local.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.448, 0.437, 0.404 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.attention.name = "local"
        config.model.attention.local.update(value="logits", stride=4, kernel=7, heads=4, iterations=3)
    return config
