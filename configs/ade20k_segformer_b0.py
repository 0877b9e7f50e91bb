"""ADE20K, SegFormer-B0 (Xie et al. 2021, arXiv:2105.15203), with the schedule of its authors.

    python train.py --config=ade20k_segformer_b0 --config.data.dir=path/to/ADEChallengeData2016 \
        --workdir=runs/segformer_b0

After github.com/NVlabs/SegFormer, local_configs/segformer/B0/segformer.b0.512x512.ade.160k.py: AdamW, 160,000 steps of
16 crops, the head at ten times the learning rate of the encoder. Published mIoU, one scale: 37.4. Not measured here.

It differs from the original in colours (`known.distort_colours`). Eight GPUs with two crops each: `attnseg-plan
--topology=h100:8` estimates 2.74 GiB on each from the shapes, in float32.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import known


def get_config() -> ConfigDict:
    """Returns the config."""
    config = known.get_config("ade20k")
    with config.unlocked():
        known.distort_colours(config)
        config.data.shorter_side = 512
        config.model.backbone.update(name="mit_b0", pretrained="mit_b0-imagenet")
        config.model.backbone.mit_b0.drop_path = 0.1
        config.model.attention.name = "none"
        config.model.decoder.name = "segformer"
        config.optimizer.update(learning_rate=6e-5, weight_decay=0.01, power=1.0, warmup_steps=1500, clip_norm=0.0)
        config.optimizer.lr_multipliers = ("decoder/.*=10",)
        config.train.update(steps=160000, batch_size=16, eval_every=16000)
    return config
