"""Paired augmentations of (image, label), in NumPy and Pillow, random only through an explicit generator."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from attnseg_jax.ops.labels import IGNORE_LABEL

_TRIES = 10

Pixels = UInt8[np.ndarray, "h w 3"]
Labels = UInt8[np.ndarray, "h w"]


def random_scale_crop(
    image: Pixels,
    label: Labels,
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    max_class_share: float = 1.0,
) -> tuple[Pixels, Labels, tuple[int, int]]:
    """Scale a pair by a random factor and cut a random window of `crop` (h, w) out of it.

    The factor is log-uniform in `scale`, so that 0.5 and 2 are equally likely; bilinear for the image (antialiased
    when it shrinks), nearest for the label.  Where a class covers more than `max_class_share` of the window's labelled
    pixels another window is drawn, up to 10 times (DeepLab-style practice, as in MMSegmentation's `cat_max_ratio`).
    Only the window's region of the source is resized: the result is that of resizing everything and cutting.

    Returns (image, label, offset): the window, smaller than `crop` where the scaled image is, and the random (y, x)
    at which it goes into a padded crop.
    """
    low, high = scale
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high > low else float(low)
    h, w = label.shape
    scaled = max(1, round(h * factor)), max(1, round(w * factor))
    window = min(crop[0], scaled[0]), min(crop[1], scaled[1])
    picture, mask = Image.fromarray(image), Image.fromarray(label)
    for _ in range(_TRIES if window != scaled else 1):
        y, x = (int(rng.integers(s - n + 1)) for s, n in zip(scaled, window))
        box = (x * w / scaled[1], y * h / scaled[0], (x + window[1]) * w / scaled[1], (y + window[0]) * h / scaled[0])
        if scaled == (h, w):
            cut = label[y : y + window[0], x : x + window[1]]
        else:
            cut = np.asarray(mask.resize(window[::-1], Image.Resampling.NEAREST, box=box))
        if max_class_share >= 1 or _class_share(cut) <= max_class_share:
            break
    if scaled == (h, w):
        pixels = image[y : y + window[0], x : x + window[1]]
    else:
        pixels = np.asarray(picture.resize(window[::-1], Image.Resampling.BILINEAR, box=box))
    offset = tuple(int(rng.integers(c - n + 1)) for c, n in zip(crop, window))
    return pixels, cut, offset


def _class_share(label: np.ndarray) -> float:
    """The largest class's share of the labelled pixels; 1 where none is labelled, so that another window is drawn."""
    counts = np.bincount(label.ravel(), minlength=IGNORE_LABEL + 1)[:IGNORE_LABEL]
    total = counts.sum()
    return counts.max() / total if total else 1.0


def random_flip(image: Pixels, label: Labels, rng: np.random.Generator, probability: float) -> tuple[Pixels, Labels]:
    """Mirror a pair left to right with `probability`."""
    if rng.random() < probability:
        return image[:, ::-1], label[:, ::-1]
    return image, label


def colour_jitter(
    image: Pixels,
    rng: np.random.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Float32[np.ndarray, "h w 3"]:
    """Change colours at random; returns values in 0..255.

    Factors are uniform in [1 - v, 1 + v] (never negative) for brightness (towards black), contrast (towards the mean
    luma) and saturation (towards the pixel's luma); `hue` turns the colour circle by up to that fraction of it, on the
    8-bit HSV of Pillow.  Applied in the order hue, brightness, contrast, saturation, with one clip at the end.
    """
    # Every factor is drawn whatever is switched on, so that one option does not change the others' draws.
    turn, *factors = rng.uniform(-1, 1, 4)
    if hue:
        hsv = np.array(Image.fromarray(np.ascontiguousarray(image)).convert("HSV"))
        hsv[..., 0] += np.uint8(round(turn * hue * 256) % 256)
        image = np.asarray(Image.frombytes("HSV", image.shape[1::-1], hsv.tobytes()).convert("RGB"))
    bright, contr, satur = (max(0.0, 1 + f * v) for f, v in zip(factors, (brightness, contrast, saturation)))
    pixels = image.astype(np.float32)
    if not (brightness or contrast or saturation):
        return pixels
    pixels *= np.float32(bright)
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = luma.mean()
    # Contrast is p -> c p + (1 - c) mean, then saturation p -> s p + (1 - s) luma(p), in which luma(p) is by then
    # c luma + (1 - c) mean.
    pixels *= np.float32(satur * contr)
    luma *= np.float32((1 - satur) * contr)
    luma += np.float32((1 - contr) * mean)
    pixels += luma[..., None]
    return np.clip(pixels, 0, 255, out=pixels)


def normalise(image: np.ndarray, mean: Any, std: Any) -> Float32[np.ndarray, "h w 3"]:
    """(image - mean) / std per channel, in float32; all three on the scale 0..255."""
    return (image - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def pad(
    image: Float32[np.ndarray, "h w 3"], label: Labels, crop: tuple[int, int], offset: tuple[int, int]
) -> tuple[Float32[np.ndarray, "H W 3"], Int32[np.ndarray, "H W"]]:
    """Put a normalised window into a crop at `offset` (y, x): zeros (the mean colour) and 255 around it."""
    h, w = label.shape
    pixels = np.zeros((*crop, 3), np.float32)
    labels = np.full(crop, IGNORE_LABEL, np.int32)
    area = np.s_[offset[0] : offset[0] + h, offset[1] : offset[1] + w]
    pixels[area], labels[area] = image, label
    return pixels, labels


def augment(sample: dict[str, Any], rng: np.random.Generator, config: Any) -> dict[str, np.ndarray]:
    """The training augmentation of one sample by a `config.data`: {'image' [h, w, 3] normalised, 'label' [h, w]}."""
    crop = tuple(config.crop)
    image, label, offset = random_scale_crop(
        sample["image"],
        sample["label"],
        rng,
        crop=crop,
        scale=tuple(config.scale),
        max_class_share=config.max_class_share,
    )
    image, label = random_flip(image, label, rng, config.flip)
    image = colour_jitter(
        image,
        rng,
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
    )
    image, label = pad(normalise(image, config.mean, config.std), label, crop, offset)
    return {"image": image, "label": label}
