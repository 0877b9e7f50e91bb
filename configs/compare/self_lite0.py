"""`fcn_lite0.py` and multi-head self-attention over all positions.

    python train.py --config=configs/compare/self_lite0.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.584, 0.571, 0.583 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import fcn_lite0
from attnseg_jax.configs.compare import self as self_attention
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = fcn_lite0.get_config()
    with config.unlocked():
        config.model.attention = self_attention.get_config().model.attention
    return config
