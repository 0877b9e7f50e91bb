"""Hooks from outside the package that are none."""

import pytest
import toy_training
from ml_collections import ConfigDict
from toy_training import Notes

from attnseg_jax.errors import UserError
from attnseg_jax.train.hooks import Hook, classes_of


class Alone(Hook):
    def __init__(self):
        pass


class Early(Hook):
    def after_step(self, step):
        pass


@pytest.mark.parametrize(
    "hook, words",
    [
        (Alone, "'toy_training:Mine' cannot be called as it will be: too many positional arguments"),
        (Early, "'toy_training:Mine'.after_step cannot be called as it will be: too many positional arguments"),
        (3, "'toy_training:Mine' must be a subclass of attnseg_jax.train.hooks.Hook"),
    ],
)
def test_what_is_no_hook(hook, words, monkeypatch):
    monkeypatch.setattr(toy_training, "Mine", hook, raising=False)
    with pytest.raises(UserError, match=r"^config\.hooks: ") as error:
        classes_of(ConfigDict({"hooks": ("toy_training:Mine",)}))
    assert words in str(error.value)


def test_what_is_one():
    assert classes_of(ConfigDict({"hooks": ("toy_training:Notes",)})) == [Notes]
