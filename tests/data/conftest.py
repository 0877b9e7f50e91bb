"""Small folders of images and masks, and a `config.data` to read them."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image


@pytest.fixture
def data_config():
    def make(**changes):
        config = ConfigDict(
            {
                "source": "folder",
                "name": "",
                "tfds_name": "",
                "dir": "",
                "train_split": "train",
                "eval_split": "val",
                "layout": "auto",
                "images": "",
                "channels": 0,
                "max_pixels": 1 << 20,
                "labels": (),
                "bands": (),
                "show": (),
                "masks": "",
                "lists": "",
                "split": (),
                "leave_out": (),
                "mask_values": "exact",
                "mask_sizes": "exact",
                "mode": "multiclass",
                "missing": "error",
                "classes": ("c0", "c1", "c2", "c3", "c4", "c5", "c6"),
                "palette": (),
                "ids": (),
                "ignore": (255,),
                "colors": (),
                "resolution": 1.0,
                "shorter_side": 0,
                "interpolation": "bilinear",
                "transforms": ("scale_crop", "flip", "colour_jitter", "normalise_pad"),
                "crop": (13, 17),
                "scale": (0.5, 2.0),
                "max_class_share": 0.75,
                "foreground": {"probability": 0.0, "classes": ()},
                "flip": 0.5,
                "vertical_flip": 0.5,
                "affine": {"probability": 1.0, "degrees": 30.0, "shear": 5.0, "aspect": 0.2, "shift": 0.1},
                "gamma": 0.5,
                "blur": 1.5,
                "noise": 0.2,
                "jpeg": (30, 90),
                "cutout": {"count": 2, "size": 0.4, "ignore": True},
                "copy_paste": {"classes": (), "probability": 1.0},
                "class_mix": {"probability": 1.0},
                "mosaic": {"probability": 1.0},
                "sampling": {"power": 0.0, "threshold": 0.1, "empty": 1.0},
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.2,
                "hue": 0.05,
                "mean": (123.675, 116.28, 103.53),
                "std": (58.395, 57.12, 57.375),
                "channel_order": "rgb",
                "threads": 2,
                "check": True,
                "custom": {},
                "regions": {
                    "method": "none",
                    "count": 11,
                    "sample": 0,
                    "cache": "",
                    "felzenszwalb": {"scales": (10.0, 300.0), "min_size": 4, "sigma": 0.5},
                    "slic": {"segments": (12, 3), "compactness": 10.0},
                },
            }
        )
        config.update(changes)
        return config

    return make


@pytest.fixture
def save():
    """Writes an array as an image file, making its folder; returns the path."""

    def write(path, array, palette=None):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(array)
        if palette is not None:
            image.putpalette(palette)
        image.save(path)
        return path

    return write


@pytest.fixture
def folder(tmp_path, save):
    """Makes pairs of the given (h, w) sizes in the CamVid layout; returns the root. Pixel values tell the pair."""

    def make(sizes, split="train", classes=7, seed=0):
        rng = np.random.default_rng(seed)
        for i, (h, w) in enumerate(sizes):
            image = rng.integers(0, 256, (h, w, 3), np.uint8)
            image[0, 0] = i
            save(tmp_path / split / f"p{i:03d}.png", image)
            save(tmp_path / f"{split}annot" / f"p{i:03d}.png", rng.integers(0, classes, (h, w)).astype(np.uint8))
        return tmp_path

    return make
