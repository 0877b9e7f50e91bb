"""Cityscapes, Mask2Former with ResNet-50 (Cheng et al. 2022, arXiv:2112.01527), with the schedule of its authors.

    python train.py --config=cityscapes_mask2former_r50 --config.data.dir=path/to/cityscapes --workdir=runs/mask2former

After github.com/facebookresearch/Mask2Former, configs/cityscapes/semantic-segmentation/maskformer2_R50_bs16_90k.yaml:
AdamW, 90,000 steps of 16 crops of 512 x 1024, the encoder at a tenth of the learning rate, no warm-up, gradients cut to
a norm of 0.01. Published mIoU, one scale: 79.4. Not measured here. Eight GPUs with two crops each: `attnseg-plan
--topology=h100:8` estimates 7.25 GiB on each from the shapes, in float32.

It differs from the original in the ImageNet weights of the encoder, timm's in the place of torchvision's; in scales,
any from 0.5 to 2 where the original takes tenths; and in colours.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import known


def get_config() -> ConfigDict:
    """Returns the config."""
    config = known.get_config("cityscapes")
    with config.unlocked():
        known.distort_colours(config)
        config.data.max_class_share = 1.0
        config.model.backbone.update(name="resnet50", pretrained="resnet50-imagenet")
        config.model.attention.name = "none"
        config.model.decoder.name = "mask2former"
        config.loss.name = "mask_classification"
        config.optimizer.update(learning_rate=1e-4, weight_decay=0.05, power=0.9, warmup_steps=0, clip_norm=0.01)
        config.optimizer.lr_multipliers = ("backbone/.*=0.1",)
        config.train.update(steps=90000, batch_size=16, eval_every=5000)
    return config
