"""`fcn_lite0.py` and similarity-weighted prediction, as in `local.py`.

    python train.py --config=configs/compare/local_lite0.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.541, 0.540, 0.532 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import fcn_lite0, local
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = fcn_lite0.get_config()
    with config.unlocked():
        config.model.attention = local.get_config().model.attention
    return config
