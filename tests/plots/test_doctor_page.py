"""The doctor's page: the overlay by hand, and that it holds what it was given and needs no network."""

import io
import re

import numpy as np
from PIL import Image

from attnseg_jax.plots import doctor_page

PALETTE = np.array([[0, 0, 0], [200, 100, 0]], np.uint8)


def test_an_overlay_by_hand():
    image = np.full((3, 6, 3), 100, np.uint8)
    label = np.array([[0, 0, 0, 1, 1, 1]] * 3, np.uint8)
    found = doctor_page.overlay(image, label, PALETTE)
    # 0.55 * 100 + 0.45 * colour, and the colour itself on both sides of the border.
    np.testing.assert_array_equal(found[1], [[55] * 3] * 2 + [[0] * 3, [200, 100, 0]] + [[145, 100, 55]] * 2)
    void = doctor_page.overlay(image, np.full((3, 6), 255, np.uint8), PALETTE)
    assert len(np.unique(void)) == 2


def test_large_pictures_are_reduced_and_small_ones_enlarged():
    for size, width in (((300, 960), 2 * 480 + 8), ((10, 60), 2 * 240 + 8)):
        data = doctor_page.sample_picture(np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), PALETTE)
        assert Image.open(io.BytesIO(data)).width == width


def test_the_page_stands_alone():
    found = {
        "data": "my <data>",
        "layout": {"name": "flat", "images": "{stem}.jpg", "masks": "{stem}.png", "names": ""},
        "pairs": {"train": 3},
        "findings": [{"level": "error", "text": "1 & 2", "files": ["a<b>.png"]}],
        "values": {"train": [{"value": 0, "pixels": 30, "masks": 3}, {"value": 255, "pixels": 10, "masks": 2}]},
        "classes": [{"name": "ground", "raw": [0]}, {"name": "cell", "raw": [255]}],
        "ignored": [],
        "images": [{"count": 3, "format": "JPEG", "mode": "RGB"}],
        "masks": [{"count": 3, "format": "PNG", "mode": "L"}],
        "sizes": [{"count": 3, "height": 4, "width": 5}],
    }
    text = doctor_page.page(found, [("train: a", b"png")], [("ground", (0, 0, 0))], "config = 1 < 2", "train.py")
    for part in (
        "my &lt;data&gt;",
        "1 &amp; 2",
        "a&lt;b&gt;.png",
        "75.00%",
        "25.00%",
        "cell",
        "config = 1 &lt; 2",
        "5x4",
    ):
        assert part in text
    assert "data:image/png;base64,cG5n" in text and not re.search(r"https?://|<script|<link", text)
