"""The transform 'colour_jitter': random brightness, contrast, saturation and hue."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from attnseg_jax.data.transforms.fields import Sample


def colour_jitter(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Change the colours of the 'image', which becomes float32 in 0..255, by the strengths in `config`."""
    if config.channels:
        return {**sample, "image": brightness_contrast(sample["image"], rng, config.brightness, config.contrast)}
    strengths = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue")}
    return {**sample, "image": jittered(sample["image"], rng, **strengths)}


def brightness_contrast(
    image: Shaped[np.ndarray, "h w c"], rng: np.random.Generator, brightness: float, contrast: float
) -> Float32[np.ndarray, "h w c"]:
    """An image of any channels and range, all of them brighter or darker and of more or less contrast, as `jittered`.

    Contrast is towards the mean of each channel.
    """
    bright, contr = (max(0.0, 1 + f * v) for f, v in zip(rng.uniform(-1, 1, 2), (brightness, contrast)))
    pixels = image.astype(np.float32) * np.float32(bright)
    mean = pixels.mean((0, 1), keepdims=True)
    return (pixels - mean) * np.float32(contr) + mean


def jittered(
    image: UInt8[np.ndarray, "h w 3"],
    rng: np.random.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Float32[np.ndarray, "h w 3"]:
    """The image with its colours changed at random, in 0..255.

    Factors are uniform in [1 - v, 1 + v] (never negative) for brightness (towards black), contrast (towards the mean
    luma) and saturation (towards the pixel's luma); `hue` turns the colour circle by up to that fraction of it, on the
    8-bit HSV of Pillow.  Applied in the order hue, brightness, contrast, saturation, with one clip at the end.
    """
    # Every factor is drawn whatever is switched on, so that one option does not change the others' draws.
    turn, *factors = rng.uniform(-1, 1, 4)
    if hue:
        hsv = np.array(Image.fromarray(np.ascontiguousarray(image, np.uint8)).convert("HSV"))
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
    # One channel at a time is faster than all with `luma[..., None]`.
    for channel in range(3):
        pixels[..., channel] += luma
    return np.clip(pixels, 0, 255, out=pixels)
