"""What is refused before a model is compiled: batch statistics of too few numbers."""

import pytest
from absl import logging

from attnseg_jax.configs import default
from attnseg_jax.errors import UserError
from attnseg_jax.train import setup
from attnseg_jax.train.setup import make_run


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """The eight simulated ones want a row each."""
    monkeypatch.setattr(setup, "check_batch_size", lambda *arguments, **options: None)


def config(**changes):
    made = default.get_config()
    made.update_from_flattened_dict({"model.attention.name": "none", **changes})
    return made


@pytest.mark.parametrize(
    "decoder, batch, norm",
    [("deeplabv3", {"train.batch_size": 1}, "decoder/aspp/pool/bn"),
     ("psp", {"train.batch_size": 16, "train.accumulate": 16}, "decoder/pool/bin1/bn")],
)  # fmt: skip
def test_batch_statistics_of_one_element_are_refused(decoder, batch, norm):
    """The pooled branch of one image is one number a channel."""
    with pytest.raises(UserError) as refused:
        make_run(config(**{"model.decoder.name": decoder}, **batch), 3)
    assert all(f"config.{key}={value}" in str(refused.value) for key, value in batch.items())
    assert norm in str(refused.value) and "\n" not in str(refused.value)
    # Without training it does not matter.
    make_run(config(**{"model.decoder.name": decoder}, **batch), 3, training=False)


@pytest.mark.parametrize("images, warned", [(2, True), (4, False)])
def test_few_elements_are_warned_of(images, warned, caplog):
    logging.set_verbosity(logging.WARNING)
    make_run(config(**{"model.decoder.name": "deeplabv3", "train.batch_size": images}), 3)
    assert ("decoder/aspp/pool/bn sees 2 numbers a channel" in caplog.text) == warned


def test_frozen_statistics_need_no_batch():
    """The last map is one pixel."""
    changes = {"model.backbone.name": "resnet18", "data.crop": (32, 32), "train.batch_size": 1}
    changes |= {"model.attention.name": "self", "model.decoder.freeze": "all"}
    with pytest.raises(UserError, match=r"backbone/.*one number a channel.*model.backbone.freeze='bn'"):
        make_run(config(**changes), 3)
    make_run(config(**changes, **{"model.backbone.freeze": "bn"}), 3)


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0), (1.0, float("inf"), 1.0)])
def test_class_weights_that_cannot_be(weights):
    """Without any weight nothing would be trained."""
    loss = config(**{"loss.class_weights": "given", "loss.weights": weights}).loss
    with pytest.raises(
        UserError, match=r"config\.loss\.weights=.* must be 3 numbers >= 0, not all 0, .* sky, road, car"
    ):
        setup.class_weights(loss, ("sky", "road", "car"), None)
