"""How a run's model is applied to images, as `config.eval` says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.errors import UserError
from attnseg_jax.ops.sliding import slide
from attnseg_jax.train.config import check_values
from attnseg_jax.train.forward import decision, make_forward, window_and_stride, windows_at_once
from attnseg_jax.train.setup import make_model


def test_windows_of_the_model(make_config):
    config = make_config(eval__mode="slide", eval__window=(12, 16), eval__stride=(8, 10))
    model = make_model(config, 5)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 24, 32, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image)

    def apply(x):
        return model.apply(variables, x, train=False).logits

    got = jax.jit(make_forward(config, model))(variables, image)
    want = jax.jit(lambda x: slide(apply, x, window=(12, 16), stride=(8, 10)))(image)
    np.testing.assert_allclose(got, want, atol=1e-5)
    config.eval.update(mode="whole", window=(), stride=())
    np.testing.assert_allclose(jax.jit(make_forward(config, model))(variables, image), apply(image), atol=1e-5)
    assert np.abs(np.asarray(got) - apply(image)).max() > 1e-3


def test_scores_of_queries_are_averaged_themselves(make_config):
    """Not their logarithms: over windows and, resized, over views; against the scores of each window in NumPy."""
    config = make_config(model__decoder__name="masked_attention")
    config.eval.update(mode="slide", window=(12, 16), stride=(12, 8))
    model = make_model(config, 5)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 32, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    # So that queries differ.
    variables = jax.tree.map(lambda x: 1.3 * x, variables)
    apply = jax.jit(lambda x: model.apply(variables, x, train=False).logits)
    total, count = np.zeros((12, 32, 5)), np.zeros((12, 32, 1))
    for x in (0, 8, 16):
        total[:, x : x + 16] += np.exp(np.asarray(apply(image[:, :, x : x + 16])[0], np.float64))
        count[:, x : x + 16] += 1
    logits = jax.jit(make_forward(config, model))(variables, image)[0]
    np.testing.assert_allclose(np.exp(logits), total / count, rtol=1e-4, atol=1e-7)
    plain = make_config()
    assert decision(config, model, 5).log_scores and not decision(plain, make_model(plain, 5)).log_scores
    # Twice as large and back.
    config.eval.update(mode="whole", window=(), stride=(), scales=(2.0,))
    logits = jax.jit(make_forward(config, model))(variables, image)
    large = jax.image.resize(image, (1, 24, 64, 3), "bilinear", precision="highest")
    scores = jax.image.resize(jnp.exp(apply(large)), (1, 12, 32, 5), "bilinear", antialias=False, precision="highest")
    shares = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(jax.nn.softmax(logits), shares, atol=1e-5)


def test_windows_by_default(make_config):
    config = make_config(data__crop=(21, 32))
    assert window_and_stride(config, 8) == {"window": (24, 32), "stride": (16, 21)}


def test_windows_at_once(make_config, monkeypatch):
    """By default as many pixels as a CPU has room for in its caches, of each device."""
    config = make_config()
    sizes = [(512, 256), (256, 256), (128, 128), (96, 128), (64, 64)]
    assert [windows_at_once(config, size) for size in sizes] == [1, 1, 4, 5, 8]
    assert windows_at_once(config, (128, 128), devices=3) == 12
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert windows_at_once(config, (512, 256), devices=2) == 16
    config.eval.windows = 5
    assert [windows_at_once(config, (512, 256), devices) for devices in (1, 2)] == [5, 6]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"mode": "slid"}, "config.eval.mode='slid' is unknown: did you mean 'slide'"),
        ({"blend": "gauss"}, "config.eval.blend='gauss' is unknown"),
        ({"padding": "mirror"}, "config.eval.padding='mirror' is unknown"),
        ({"window": (10, 16)}, r"config.eval.window=\(10, 16\) must be multiples of 4, .*: take \(8, 16\)"),
        ({"stride": (8, 40)}, r"config.eval.stride=\(8, 40\) leaves gaps between windows of 24 x 32 pixels"),
        ({"window": (12,)}, r"config.eval.window=\(12,\) must be height and width, or \(\)"),
        ({"window": (12, 0)}, r"config.eval.window=\(12, 0\) must be numbers of at least 1"),
        ({"scales": ()}, r"config.eval.scales=\(\) must be at least one factor"),
        ({"scales": (0.0,)}, r"config.eval.scales=\(0.0,\) must be numbers of at least 0.01"),
        ({"mode": "whole", "stride": (8, 8)}, r"config.eval.stride=\(8, 8\) is for windows: set config.eval.mode"),
        ({"windows": -1}, "config.eval.windows=-1 must be at least 0"),
    ],
)
def test_values_that_do_not_fit(changes, words, make_config):
    config = make_config(**{f"eval__{key}": value for key, value in ({"mode": "slide"} | changes).items()})
    with pytest.raises(UserError, match=words):
        check_values(config)
        make_forward(config, make_model(config, 5))


def test_regions_are_those_of_the_whole_image(make_config):
    config = make_config(model__kind="fast_rcnn", data__regions__method="slic", eval__flip=True)
    with pytest.raises(UserError, match=r"config.model.kind='fast_rcnn' takes regions beside the image"):
        make_forward(config, make_model(config, 5))
