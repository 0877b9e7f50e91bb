"""Pictures resized as Pillow does, to the bit."""

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.ops.pillow import resize_picture


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 31), (37, 22), (24, 20), (5, 4), (37, 90), (80, 67)])
def test_numbers_are_pillows(size, method):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 37, 31, 3), np.uint8)
    pictures[1] = np.where(pictures[1] > 127, 255, 0)
    for found, picture in zip(resize_picture(pictures, size, method), pictures, strict=True):
        known = Image.fromarray(picture).resize(size[::-1], Image.Resampling[method.upper()])
        np.testing.assert_array_equal(found, np.asarray(known))
