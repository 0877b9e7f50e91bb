"""SegNet-Basic: four convolutions of 7x7 and poolings, and as many back by un-pooling.

    python train.py --config=configs/compare/segnet_basic.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.290, 0.256, 0.260 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.backbone.name = "segnet_basic"
        config.model.decoder.name = "segnet"
        config.model.decoder.aux = False
        config.model.decoder.segnet.update(depths=(2, 1, 1, 1), kernel_size=7, classifier_size=1, relu=False)
    return config
