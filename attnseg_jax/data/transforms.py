"""Paired augmentations of (image, label), in NumPy and Pillow, random only through an explicit generator."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from attnseg_jax.data.regions import NO_REGION, Regions, numbered, sampled
from attnseg_jax.ops.labels import IGNORE_LABEL

_TRIES = 10

Pixels = UInt8[np.ndarray, "h w 3"]
Labels = UInt8[np.ndarray, "h w"]


@dataclass(frozen=True)
class Window:
    """A part of a scaled image, and the place it takes in a crop; all of them (h, w) or (y, x).

    Attributes:
      scaled: size of the whole image after scaling.
      start: first pixel of the part in it.
      size: size of the part.
      offset: where it goes into a padded crop.
    """

    scaled: tuple[int, int]
    start: tuple[int, int]
    size: tuple[int, int]
    offset: tuple[int, int]

    def cut(self, array: np.ndarray, resampling: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
        """The part of an unscaled array; only its region of the source is resized, with the result of all of it."""
        (h, w), (y, x), (rows, columns) = array.shape[:2], self.start, self.size
        if self.scaled == (h, w):
            return array[y : y + rows, x : x + columns]
        box = (x * w / self.scaled[1], y * h / self.scaled[0])
        box += ((x + columns) * w / self.scaled[1], (y + rows) * h / self.scaled[0])
        return np.asarray(Image.fromarray(array).resize((columns, rows), resampling, box=box))


def random_scale_crop(
    image: Pixels,
    label: Labels,
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    max_class_share: float = 1.0,
) -> tuple[Pixels, Labels, Window]:
    """Scale a pair by a random factor and cut a random window of `crop` (h, w) out of it.

    The factor is log-uniform in `scale`, so that 0.5 and 2 are equally likely; bilinear for the image (antialiased
    when it shrinks), nearest for the label.  Where a class covers more than `max_class_share` of the window's labelled
    pixels another window is drawn, up to 10 times (DeepLab-style practice, as in MMSegmentation's `cat_max_ratio`).

    Returns (image, label, window): the parts, smaller than `crop` where the scaled image is, and where they come from
    and go to, at random.
    """
    low, high = scale
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high > low else float(low)
    scaled = scaled_size(label.shape, factor)
    size = min(crop[0], scaled[0]), min(crop[1], scaled[1])
    for _ in range(_TRIES if size != scaled else 1):
        start = tuple(int(rng.integers(s - n + 1)) for s, n in zip(scaled, size))
        cut = Window(scaled, start, size, (0, 0)).cut(label)
        if max_class_share >= 1 or _class_share(cut) <= max_class_share:
            break
    window = Window(scaled, start, size, tuple(int(rng.integers(c - n + 1)) for c, n in zip(crop, size)))
    return window.cut(image, Image.Resampling.BILINEAR), cut, window


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """(h, w) times `factor`, rounded, at least 1.

    >>> scaled_size((361, 3), 0.5)
    (180, 2)
    """
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def scale_image(image: Pixels, factor: float) -> Pixels:
    """The image resized by `factor`, bilinear, antialiased when it shrinks."""
    return _whole(image, factor).cut(image, Image.Resampling.BILINEAR)


def scale_label(label: Labels, factor: float) -> Labels:
    """The label resized by `factor`, nearest."""
    return _whole(label, factor).cut(label)


def _whole(array: np.ndarray, factor: float) -> Window:
    scaled = scaled_size(array.shape[:2], factor)
    return Window(scaled, (0, 0), scaled, (0, 0))


def _class_share(label: np.ndarray) -> float:
    """The largest class's share of the labelled pixels; 1 where none is labelled, so that another window is drawn."""
    counts = np.bincount(label.ravel(), minlength=IGNORE_LABEL + 1)[:IGNORE_LABEL]
    total = counts.sum()
    return counts.max() / total if total else 1.0


def random_flip(arrays: tuple[np.ndarray, ...], rng: np.random.Generator, probability: float) -> tuple[np.ndarray, ...]:
    """Mirror all arrays [h, w, ...] left to right, or none, with `probability`."""
    if rng.random() < probability:
        return tuple(array[:, ::-1] for array in arrays)
    return arrays


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
    return _put(image, crop, offset, np.float32(0)), _put(label, crop, offset, np.int32(IGNORE_LABEL))


def pad_regions(
    regions: Regions, crop: tuple[int, int], offset: tuple[int, int], count: int
) -> Int32[np.ndarray, "H W l"]:
    """Put a window's region map into a crop as `pad` does, -1 around it, numbered anew (see `regions.numbered`)."""
    return _put(numbered(regions, count), crop, offset, np.int32(NO_REGION))


def _put(array: np.ndarray, crop: tuple[int, int], offset: tuple[int, int], fill: np.generic) -> np.ndarray:
    h, w = array.shape[:2]
    canvas = np.full((*crop, *array.shape[2:]), fill)
    canvas[offset[0] : offset[0] + h, offset[1] : offset[1] + w] = array
    return canvas


def augment(sample: dict[str, Any], rng: np.random.Generator, config: Any) -> dict[str, np.ndarray]:
    """The training augmentation of one sample by a `config.data`: {'image' [h, w, 3] normalised, 'label' [h, w]}.

    With 'regions' int32 [h, w, l] where the sample has them, on which the rest does not depend; but where only some of
    them are drawn (`config.regions.sample`), pixels without any have no label.
    """
    crop = tuple(config.crop)
    image, label, window = random_scale_crop(
        sample["image"],
        sample["label"],
        rng,
        crop=crop,
        scale=tuple(config.scale),
        max_class_share=config.max_class_share,
    )
    levels = [window.cut(level) for level in np.moveaxis(sample["regions"], -1, 0)] if "regions" in sample else []
    image, label, *levels = random_flip((image, label, *levels), rng, config.flip)
    image = colour_jitter(
        image,
        rng,
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
    )
    image, label = pad(normalise(image, config.mean, config.std), label, crop, window.offset)
    out = {"image": image, "label": label}
    if levels:
        out["regions"] = pad_regions(np.stack(levels, -1), crop, window.offset, config.regions.count)
        if config.regions.sample:
            # The last draw: what was drawn before is the same without it.
            out["regions"] = sampled(out["regions"], config.regions.sample, rng)
            out["label"] = np.where((out["regions"] == NO_REGION).all(-1), np.int32(IGNORE_LABEL), label)
    return out
