"""Cityscapes, SegNeXt-T (Guo et al. 2022, arXiv:2209.08575), with the schedule of its authors.

    python train.py --config=cityscapes_segnext_t --config.data.dir=path/to/cityscapes \
        --config.model.backbone.pretrained=path/to/mscan_t.pth --workdir=runs/segnext_t

After github.com/Visual-Attention-Network/SegNeXt, local_configs/segnext/tiny/segnext.tiny.1024x1024.city.160k.py:
AdamW, 160,000 steps of 8 crops of 1024 x 1024, the head at ten times the learning rate of the encoder, windows in
evaluation. Published mIoU, one scale: 79.8. Not measured here. The encoder's ImageNet weights are those of its authors
or of mmsegmentation. It differs from the original in colours (`known.distort_colours`). Eight GPUs with one crop each:
`attnseg-plan --topology=h100:8` estimates 3.79 GiB on each from the shapes, in float32.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import known


def get_config() -> ConfigDict:
    """Returns the config."""
    config = known.get_config("cityscapes")
    with config.unlocked():
        known.distort_colours(config)
        config.data.crop = (1024, 1024)
        config.model.backbone.name = "mscan_t"
        config.model.attention.name = "none"
        config.model.decoder.name = "ham"
        config.optimizer.update(learning_rate=6e-5, weight_decay=0.01, power=1.0, warmup_steps=1500, clip_norm=0.0)
        config.optimizer.lr_multipliers = ("decoder/.*=10",)
        config.train.update(steps=160000, batch_size=8, eval_every=8000)
        config.eval.update(mode="slide", window=(1024, 1024), stride=(768, 768))
    return config
