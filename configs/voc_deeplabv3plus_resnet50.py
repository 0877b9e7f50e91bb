"""VOC 2012 with the masks of Hariharan et al., DeepLabV3+ with ResNet-50 (Chen et al. 2018, arXiv:1802.02611).

    python train.py --config=voc_deeplabv3plus_resnet50 --config.data.dir=path/to/VOCdevkit/VOC2012 \
        --workdir=runs/deeplabv3plus

After mmsegmentation's deeplabv3plus_r50-d8_4xb4-40k_voc12aug-512x512: SGD, 40,000 steps of 16 crops, output stride 8,
an auxiliary head. Published mIoU, one scale: 76.81. Not measured here. Without the folder SegmentationClassAug and its
list --config.data.train_split=train takes the 1,464 masks of VOC alone.

It differs from the original in the encoder, timm's ResNet-50 in the place of ResNet-50-v1c; in the head, which has 256
channels as in the paper, not 512; and in colours (`known.distort_colours`). Eight GPUs with two crops each:
`attnseg-plan --topology=h100:8` estimates 4.75 GiB on each from the shapes, in float32.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import known


def get_config() -> ConfigDict:
    """Returns the config."""
    config = known.get_config("voc")
    with config.unlocked():
        known.distort_colours(config)
        config.data.update(train_split="trainaug", shorter_side=512)
        config.model.backbone.update(name="resnet50", pretrained="resnet50-imagenet")
        config.model.backbone.resnet50.output_stride = 8
        config.model.attention.name = "none"
        config.model.decoder.update(name="deeplabv3plus", aux=True)
        config.model.decoder.deeplabv3plus.update(rates=(12, 24, 36), dropout=0.1)
        config.optimizer.update(name="sgd", learning_rate=0.01, weight_decay=5e-4, warmup_steps=0, clip_norm=0.0)
        config.optimizer.update(power=0.9, end_factor=0.01)
        config.train.update(steps=40000, batch_size=16, eval_every=4000)
    return config
