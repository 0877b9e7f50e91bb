"""SegNet: VGG-16 with batch normalisation, un-pooling by the indices of its poolings.

    python train.py --config=configs/compare/segnet.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.245, 0.261, 0.242 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.backbone.name = "vgg16_bn"
        config.model.decoder.name = "segnet"
        config.model.decoder.aux = False
    return config
