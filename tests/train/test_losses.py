"""Names, factors and options of losses."""

import pytest

from attnseg_jax.configs import default
from attnseg_jax.errors import UserError
from attnseg_jax.train import config as configs
from attnseg_jax.train.losses import LOSSES, make_losses, options


def test_the_default_config_has_every_option_with_its_default():
    config = default.get_config().loss
    for name in LOSSES:
        group = config[name].to_dict() if name in config else {}
        assert group == options(LOSSES[name]), name


def test_resolving_keeps_the_losses_in_use():
    config = default.get_config()
    keys = {
        "name",
        "class_weights",
        "weights",
        "class_weight_power",
        "label_smoothing",
        "aux_weight",
        "presence_weight",
        "scales",
        "edge_weight",
        "edge_aware_weight",
        "edge_confidence",
        "edge_width",
    }
    assert set(configs.resolve(config)["loss"]) == keys
    before = configs.config_hash(config)
    config.loss.dice.smooth = 1.0
    assert configs.config_hash(config) == before
    config.loss.name = "cross_entropy+dice"
    assert set(configs.resolve(config)["loss"]) == {*keys, "dice"}
    hashes = {before, configs.config_hash(config)}
    config.loss.scales = (1.0, 0.5)
    assert set(configs.resolve(config)["loss"]) == {*keys, "dice"}
    assert len({*hashes, configs.config_hash(config)}) == 3


def test_a_config_of_a_workdir_has_its_losses(tmp_path):
    config = default.get_config()
    config.loss.name, config.loss.scales, config.loss.focal.gamma = "focal+dice", (1.0, 3.0), 1.0
    (tmp_path / "config.json").write_text(configs.to_json(config))
    loaded = configs.load(tmp_path)
    assert loaded.loss.to_dict() == {**config.loss.to_dict()}
    assert loaded.loss.dice.classes == ()
    (tmp_path / "config.json").write_text(configs.to_json(default.get_config()))
    assert configs.load(tmp_path).loss.scales == ()


def test_every_loss_of_a_sum():
    made = make_losses("dice+cross_entropy", (0.5, 2), num_classes=3)
    assert [(loss.name, loss.scale) for loss in made] == [("dice", 0.5), ("cross_entropy", 2)]
    assert [loss.scale for loss in make_losses("dice+focal", num_classes=3)] == [1.0, 1.0]


@pytest.mark.parametrize(
    "name, keywords, message",
    [
        ("dise", {}, r"config\.loss\.name='dise': 'dise' is unknown: did you mean 'dice'\?"),
        ("dice+", {}, r"config\.loss\.name='dice\+': '' is unknown: known: cross_entropy, ohem"),
        ("dice+dice", {}, r"config\.loss\.name='dice\+dice' names a loss twice"),
        ("dice+ohem", {"scales": (1.0,)}, r"config\.loss\.scales=\(1\.0,\) must be \(\) or 2 numbers above 0"),
        ("dice", {"scales": (0.0,)}, r"config\.loss\.scales=\(0\.0,\) must be \(\) or 1 numbers above 0"),
        ("dice", {"label_smoothing": 0.1}, r"config\.loss\.label_smoothing=0\.1 does nothing in dice: set it to 0"),
        ("dice", {"groups": {"dice": {"smoth": 1.0}}}, r"config\.loss\.dice\.smoth is unknown: .*'smooth'"),
        ("dice", {"groups": {"dice": {"classes": (1, 3)}}}, r"config\.loss\.dice\.classes=\(1, 3\) .* from 0 to 2"),
    ],
)
def test_mistakes(name, keywords, message):
    with pytest.raises(UserError, match=message):
        make_losses(name, num_classes=3, **keywords)
