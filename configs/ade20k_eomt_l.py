"""ADE20K, EoMT on DINOv3's ViT-L (Kerssies et al. 2025, arXiv:2503.19108), with the schedule of its authors.

    python train.py --config=ade20k_eomt_l --config.data.dir=path/to/ADEChallengeData2016 --workdir=runs/eomt_l

After github.com/tue-mps/eomt, configs/dinov3/ade20k/semantic/eomt_large_512.yaml: 16 epochs of 1,263 steps, 16 crops a
step, the encoder at a tenth of the learning rate. Published mIoU, of the same model with DINOv2 weights: 58.4; that
with DINOv3's could not be looked up. Not measured here. The encoder's weights are gated (docs/howto/pretrained.md).
Eight GPUs with two crops each: `attnseg-plan --topology=h100:8` estimates 15.8 GiB on each from the shapes, in float32.

It differs from the original in that the first of the four blocks is annealed over 6,520 steps, not 3,000; and that
training images have a shorter side of 512 before the random scale, as in evaluation, not a longer one.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import known


def get_config() -> ConfigDict:
    """Returns the config."""
    config = known.get_config("ade20k")
    with config.unlocked():
        config.data.update(shorter_side=512, max_class_share=1.0, brightness=0.0, contrast=0.0)
        config.model.backbone.update(name="dinov3_vit_l", pretrained="dinov3_vit_l-lvd1689m")
        config.model.attention.name = "none"
        config.model.decoder.name = "eomt"
        steps = 16 * (20210 // 16)
        config.model.decoder.eomt.anneal = tuple(step / steps for step in (0, 6520, 9780, 13040, 16300))
        config.loss.name = "mask_classification"
        config.optimizer.update(learning_rate=2e-4, weight_decay=0.05, power=0.9, clip_norm=0.01)
        config.optimizer.update(warmup_steps=2000, backbone_warmup_steps=3000)
        config.optimizer.lr_multipliers = ("backbone/.*=0.1",)
        config.train.update(steps=steps, batch_size=16, eval_every=2 * 1263)
        config.eval.update(mode="slide", window=(512, 512), stride=(341, 341))
    return config
