"""The pyramid of `fpn`: an oracle at odd sizes, what cannot be built."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError, option_path
from attnseg_jax.models import Features
from attnseg_jax.models.decoders import FPN

RNG = np.random.default_rng(0)
SIZES = {4: (9, 13), 8: (5, 7), 32: (2, 4)}
MAPS = {stride: RNG.standard_normal((2, *size, 3 + i)) for i, (stride, size) in enumerate(SIZES.items())}
FEATURES = Features({stride: jnp.asarray(x, jnp.float32) for stride, x in MAPS.items()})
SMALL = dict(num_classes=5, pyramid_channels=6, channels=8, groups=4, strides=(4, 8, 32))


def bilinear(x, size):
    """Corner pixels on corner pixels, pixel by pixel."""
    y = np.zeros((len(x), *size, x.shape[-1]))
    for i, j in np.ndindex(*size):
        r, c = (k * (n - 1) / (m - 1) for k, n, m in zip((i, j), x.shape[1:3], size))
        for u, v in np.ndindex(*x.shape[1:3]):
            y[:, i, j] += max(0, 1 - abs(r - u)) * max(0, 1 - abs(c - v)) * x[:, u, v]
    return y


def nearest(x, size):
    y = np.zeros((len(x), *size, x.shape[-1]))
    for i, j in np.ndindex(*size):
        y[:, i, j] = x[:, i * x.shape[1] // size[0], j * x.shape[2] // size[1]]
    return y


def block(x, p, groups):
    b, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((b, h, w, p["conv"]["kernel"].shape[-1]))
    for i, j in np.ndindex(h, w):
        y[:, i, j] = np.einsum("byxc,yxco->bo", padded[:, i : i + 3, j : j + 3], p["conv"]["kernel"])
    for image in y:
        for group in np.split(np.arange(y.shape[-1]), groups):
            image[..., group] = (image[..., group] - image[..., group].mean()) / np.sqrt(image[..., group].var() + 1e-5)
    return np.maximum(y * p["norm"]["scale"] + p["norm"]["bias"], 0)


@pytest.mark.parametrize("merge", ["add", "cat"])
def test_against_an_oracle(merge, random_variables):
    model = FPN(**SMALL, merge=merge)
    variables = random_variables(model, FEATURES)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    lateral = {s: MAPS[s] @ p[f"lateral{s}"]["kernel"][0, 0] + p[f"lateral{s}"]["bias"] for s in SIZES}
    lateral[8] += nearest(lateral[32], SIZES[8])
    lateral[4] += nearest(lateral[8], SIZES[4])
    fine = block(lateral[4], p["block4_0"], 4)
    middle = bilinear(block(lateral[8], p["block8_0"], 4), SIZES[4])
    coarse = bilinear(block(lateral[32], p["block32_0"], 4), SIZES[8])
    coarse = bilinear(block(coarse, p["block32_1"], 4), SIZES[4])
    merged = fine + middle + coarse if merge == "add" else np.concatenate([fine, middle, coarse], axis=-1)
    expected = merged @ p["classifier"]["kernel"][0, 0] + p["classifier"]["bias"]
    np.testing.assert_allclose(model.apply(variables, FEATURES).logits, expected, rtol=2e-5, atol=2e-5)


def test_dropout_takes_whole_channels_of_an_image(random_variables):
    model = FPN(**SMALL, dropout=0.5)
    variables = random_variables(model, FEATURES)
    # The classifier copies channels, so that the logits show which were dropped.
    variables["params"]["classifier"] = {"kernel": np.eye(8, 5)[None, None], "bias": np.zeros(5)}
    plain = model.apply(variables, FEATURES).logits
    out = model.apply(variables, FEATURES, train=True, rngs={"dropout": jax.random.key(2)}).logits
    kept = (out != 0).any(axis=(1, 2), keepdims=True)
    assert 0 < kept.sum() < 10 and (kept[0] != kept[1]).any()
    np.testing.assert_allclose(out, jnp.where(kept, 2 * plain, 0), rtol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"merge": "sum"}, r"\.merge='sum' is unknown: known: add, cat"),
        ({"upsampling": "bilinar"}, r"\.upsampling='bilinar' is unknown: did you mean 'bilinear'"),
        ({"channels": 10}, r"\.channels=10 does not divide into groups=4: make it a multiple"),
        ({"channels": 0}, r"\.channels=0 must be at least 1"),
        ({"strides": ()}, r"\.strides=\(\) names no map"),
        (
            {"strides": (4, 16)},
            r"\.strides=\(4, 16\) asks for a map of stride 16; the backbone has 4, 8, 32: change strides",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=r"config\.model\.decoder\.fpn" + message):
        given = {key: value for key, value in {**SMALL, **options}.items() if key != "num_classes"}
        decoder = build_model({"decoder": {"name": "fpn", "fpn": given}}, 5).decoder
        with option_path("config.model.decoder.fpn"):
            jax.eval_shape(decoder.init, jax.random.key(0), FEATURES)
