"""Values of a config: those that are refused before anything is built, and those at the edge."""

import re
from pathlib import Path

import numpy as np
import pytest

from attnseg_jax.configs import default
from attnseg_jax.errors import UserError
from attnseg_jax.train import config as configs
from attnseg_jax.train.optimizer import make_optimizer

ROOT = Path(__file__).parents[2]
DEFAULT = str(ROOT / "configs/default.py")


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.crop", (24,)),
        ("data.crop", (7, 32)),
        ("data.crop", ("a", 32)),
        ("data.resolution", 0.0),
        ("data.resolution", float("inf")),
        ("data.scale", (2.0, 1.0)),
        ("data.scale", (0.0, 1.0)),
        ("data.mean", (1.0, 2.0)),
        ("data.std", (1.0, 0.0, 1.0)),
        ("data.flip", 1.5),
        ("data.max_class_share", 0.0),
        ("data.hue", 0.6),
        ("data.classes", ("road", "car", "road")),
        ("data.classes", (1, 2)),
        ("data.palette", (1, 2, 3)),
        ("data.colors", ((1, 2, "red"),)),
        ("data.ids", (0, "road")),
        ("loss.weights", ("a",)),
        ("optimizer.lr_multipliers", (0.1,)),
        ("data.threads", -1),
        ("data.brightness", 1.1),
        ("data.contrast", -0.1),
        ("data.saturation", 2.0),
        ("data.regions.count", 0),
        ("data.regions.sample", -1),
        ("data.regions.slic.compactness", 0.0),
        ("data.regions.felzenszwalb.min_size", 0),
        ("data.regions.felzenszwalb.sigma", -1.0),
        ("loss.label_smoothing", 1.0),
        ("loss.jaccard.smooth", -1.0),
        ("loss.ohem.min_kept", 100.0),
        ("loss.focal.alpha", 2.0),
        ("loss.tversky.gamma", 0.0),
        ("loss.tversky.beta", -1.0),
        ("optimizer.learning_rate", -1.0),
        ("optimizer.warmup_steps", -1),
        ("optimizer.clip_norm", -1.0),
        ("optimizer.ema_decay", 1.0),
        ("eval.batch_size", 0),
        ("eval.samples", -1),
        ("train.steps", 0),
        ("train.batch_size", 0),
        ("train.accumulate", 0),
        ("train.log_every", 0),
        ("train.eval_every", 0),
        ("train.keep", 0),
        ("train.profile", (2.5,)),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_values_that_no_part_can_work_with(key, value):
    config = default.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=re.escape(f"config.{key}={value} must be ")):
        configs.check_values(config)


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.crop", (8, 8)),
        ("data.resolution", 0.1),
        ("data.scale", (1.0, 1.0)),
        ("data.flip", 1.0),
        ("data.max_class_share", 1.0),
        ("data.threads", 0),
        ("loss.label_smoothing", 0.0),
        ("eval.samples", 0),
        ("seed", 2**32 - 1),
    ],
)
def test_values_at_the_edge(key, value):
    config = default.get_config()
    config.update_from_flattened_dict({key: value})
    configs.check_values(config)


def test_regions_are_checked_with_the_other_values(tmp_path):
    config = default.get_config()
    config.data.regions.method = "slic"
    config.data.regions.slic.segments = (24, 96)
    with pytest.raises(UserError, match=r"config\.data\.regions\.slic\.segments=\(24, 96\) must be"):
        configs.check_values(config)
    config.data.regions.slic.segments = (96, 24)
    (tmp_path / "config.json").write_text(configs.to_json(config))
    configs.check_values(configs.load(tmp_path))
    configs.check_flags(["--config.data.regions.slic.segments=(50,)"], DEFAULT)


def test_a_short_run_of_the_default_config_shortens_its_warm_up():
    config = default.get_config()
    assert config.optimizer.warmup_steps > 20
    _, schedule = make_optimizer(config.optimizer, 20)
    rates = [float(schedule(step)) for step in range(20)]
    assert max(rates) == pytest.approx(config.optimizer.learning_rate) and np.argmax(rates) == 10
