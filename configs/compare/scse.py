"""ResNet-18 and spatial and channel squeeze and excitation.

    python train.py --config=configs/compare/scse.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.467, 0.437, 0.414 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.attention.name = "scse"
    return config
