"""What is wrong on a command line or in a config file, in the words for it."""

from pathlib import Path

import pytest

from attnseg_jax.errors import UserError
from attnseg_jax.train import config as configs

ROOT = Path(__file__).parents[2]
DEFAULT = str(ROOT / "configs/default.py")


def config_of(path):
    return configs.read_file(str(path))


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config.train.step=3"], r"config\.train\.step is unknown: did you mean 'steps'\?"),
        (["-config.trian.steps=3"], r"config\.trian is unknown: did you mean 'train'\?"),
        (["--config.model.attention.self.hedas", "4"], r"config\.model\.attention\.self\.hedas .* 'heads'"),
        (["--config.seed.x=3"], r"config\.seed\.x is unknown: config\.seed is a value, not a group"),
        (["--config.train=3"], r"config\.train is a group: set one of its keys \(accumulate, batch_size"),
        (["--config=configs/nix.py"], r"--config=configs/nix\.py: the file configs/nix\.py does not exist"),
        (["--config=configs"], r"the file configs does not exist"),
        (["--config="], r"does not exist"),
    ],
)
def test_mistakes_on_the_command_line(flags, message):
    with pytest.raises(UserError, match=message) as caught:
        configs.check_flags(["--workdir=x", *flags], DEFAULT)
    assert "\n" not in str(caught.value)


def test_good_flags_pass():
    configs.check_flags(["--workdir=x", "--config.train.steps=3", "--config.data.crop=(8, 9)", "-v=1"], DEFAULT)


START = "from attnseg_jax.configs import default\ndef get_config():\n  config = default.get_config()\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = 1 +", r"cannot be read: SyntaxError"),
        ("import nothing_of_this_name", r"cannot be read: ModuleNotFoundError: .*nothing_of_this_name"),
        ("x = 1", r"cannot be read: AttributeError: .*get_config"),
        ("def get_config(): return {}", r"get_config\(\) must return an ml_collections\.ConfigDict"),
        ("def get_config(): raise ValueError('no luck')", r"cannot be read: ValueError: no luck"),
        (START + "  config.train.stepps = 3\n  return config", r"cannot be read: .*stepps"),
        (START + "  config.train.steps = 'three'\n  return config", r"cannot be read: TypeError: .*steps"),
        (
            START + "  with config.unlocked():\n    config.train.stepps = 3\n  return config",
            r"config\.train\.stepps is unknown: did you mean 'steps'\?",
        ),
        (START + "  with config.unlocked():\n    del config.loss\n  return config", r"config\.loss is missing: start"),
        (
            START + "  with config.unlocked(), config.ignore_type():\n    config.eval = 3\n  return config",
            r"config\.eval must be a group",
        ),
    ],
)
def test_mistakes_in_a_config_file(text, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        configs.check_flags([f"--config={path}"], DEFAULT)
    assert f"--config={path}" in str(caught.value)


def test_a_config_file_with_an_argument(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(START.replace("()", "(size)", 1) + "  config.train.steps = int(size)\n  return config")
    configs.check_flags([f"--config={path}:12"], DEFAULT)
    assert config_of(f"{path}:12").train.steps == 12
