"""SegNet: VGG-16 with batch normalisation, un-pooling by the indices of its poolings."""

from ml_collections import ConfigDict

from configs.compare import base


def get_config() -> ConfigDict:
    """Returns the config."""
    config = base.get_config()
    with config.unlocked():
        config.model.backbone.name = "vgg16_bn"
        config.model.decoder.name = "segnet"
    return config
