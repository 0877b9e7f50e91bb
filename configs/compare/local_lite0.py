"""`fcn_lite0.py` and similarity-weighted prediction, as in `local.py`."""

from ml_collections import ConfigDict

from configs.compare import fcn_lite0, local


def get_config() -> ConfigDict:
    """Returns the config."""
    config = fcn_lite0.get_config()
    with config.unlocked():
        config.model.attention = local.get_config().model.attention
    return config
