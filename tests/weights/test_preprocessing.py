"""How the images of a layout's training were prepared, and that they are prepared so here."""

import numpy as np
import pytest

from attnseg_jax.data.pipeline import evaluation_sample
from attnseg_jax.weights import preprocessing
from attnseg_jax.weights.catalogue import CATALOGUE, MODELS
from attnseg_jax.weights.layouts import ENCODERS, HEADS
from attnseg_jax.weights.preprocessing import of_layout


def test_the_layouts_exist():
    assert preprocessing._ENCODERS.keys() <= ENCODERS.keys() and preprocessing._HEADS.keys() <= HEADS.keys()
    for known in (*preprocessing._ENCODERS.values(), *preprocessing._HEADS.values()):
        assert known.keys() == preprocessing.IMAGENET.keys()


@pytest.mark.parametrize("name, published", {**CATALOGUE, **MODELS}.items())
def test_the_catalogue_says_the_same(name, published):
    if known := of_layout(published.layout):
        assert known == {
            "data.mean": published.mean,
            "data.std": published.std,
            "data.channel_order": published.channel_order,
        }


def test_as_openseg_reads_an_image():
    """OpenCV gives blue, green and red; (102.9801, 115.9465, 122.7717) are subtracted from these."""
    from attnseg_jax.configs import default

    config = default.get_config().data
    for key, value in of_layout("openseg_ocrnet+mmseg_resnet_v1c").items():
        config[key.removeprefix("data.")] = value
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    row = evaluation_sample({"image": image, "label": np.zeros((5, 7), np.uint8), "id": ""}, config)
    np.testing.assert_allclose(row["image"], image[..., ::-1] - np.array([102.9801, 115.9465, 122.7717]), atol=1e-4)
