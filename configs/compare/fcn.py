"""FCN: the plain baseline, a ResNet-18 and a convolutional head.

    python train.py --config=configs/compare/fcn.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.446, 0.438, 0.448 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    return config
