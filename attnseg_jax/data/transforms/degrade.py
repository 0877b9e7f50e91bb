"""Transforms that make the 'image' worse: 'gamma', 'blur', 'noise', 'jpeg', 'cutout'."""

import io
from typing import Any

import numpy as np
from PIL import Image

from attnseg_jax.data.transforms.fields import Sample
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL


def gamma(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Raise the values to a random power between 1 / (1 + `config.gamma`) and 1 + `config.gamma`.

    They are shares of 255, of images with `config.channels` of the range of the image's own values.
    """
    image = sample["image"].astype(np.float32)
    power = float((1 + config.gamma) ** rng.uniform(-1, 1))
    low, high = (0.0, 255.0) if not config.channels else (float(image.min()), float(image.max()))
    share = ((image - low) / max(high - low, np.finfo(np.float32).tiny)).clip(0, 1)
    return {**sample, "image": share ** np.float32(power) * np.float32(high - low) + np.float32(low)}


def blur(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Blur by a Gaussian whose deviation is at random up to `config.blur` pixels."""
    from scipy.ndimage import gaussian_filter

    sigma = rng.uniform(0, config.blur)
    image = sample["image"].astype(np.float32)
    return {**sample, "image": gaussian_filter(image, (sigma, sigma, 0), mode="nearest")}


def noise(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Add Gaussian noise whose deviation is at random up to `config.noise` times `config.std`."""
    image = sample["image"].astype(np.float32)
    strength = np.asarray(config.std, np.float32) * np.float32(rng.uniform(0, config.noise))
    return {**sample, "image": image + rng.standard_normal(image.shape, np.float32) * strength}


def jpeg(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Save as JPEG of a random quality in `config.jpeg`, and read that."""
    if config.channels:
        raise UserError("config.data.transforms: 'jpeg' is for 8-bit RGB, not for config.data.channels: leave it out")
    low, high = config.jpeg
    image = np.ascontiguousarray(sample["image"].round().clip(0, 255), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=int(rng.integers(low, high + 1)))
    return {**sample, "image": np.asarray(Image.open(stream).convert("RGB"))}


def cutout(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Cover `config.cutout.count` random rectangles with the mean colour, of sides up to `config.cutout.size`.

    Sizes are shares of height and width. With `config.cutout.ignore` what is covered has no label.
    """
    image, label = sample["image"].copy(), sample["label"].copy()
    h, w = label.shape[:2]
    mean = np.asarray(config.mean, np.float32)
    mean = mean.round().clip(0, 255).astype(np.uint8) if image.dtype == np.uint8 else mean
    for _ in range(config.cutout.count):
        sides = rng.uniform(0, config.cutout.size, 2) * (h, w)
        top, left = (int(rng.integers(n)) for n in (h, w))
        part = np.s_[top : top + int(sides[0]), left : left + int(sides[1])]
        image[part] = mean
        if config.cutout.ignore:
            label[part] = IGNORE_LABEL
    return {**sample, "image": image, "label": label}
