"""Transforms that turn and bend the grid of pixels: 'vertical_flip', 'right_angle', 'affine'.

All pixel fields are resampled alike. What comes from outside is padding: the mean colour, label 255, no region, zero.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from attnseg_jax.data.transforms.fields import Sample, fill_value, is_picture, map_pixels


def vertical_flip(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Turn all pixel fields upside down, mirrored, or none, with probability `config.vertical_flip`."""
    if rng.random() < config.vertical_flip:
        return map_pixels(sample, lambda _, array: array[::-1])
    return sample


def right_angle(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Turn by 0, 90, 180 or 270 degrees. Height and width may change places: it stands before 'scale_crop'."""
    turns = int(rng.integers(4))
    return map_pixels(sample, lambda _, array: np.rot90(array, turns))


def affine(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Rotate, shear, stretch and shift about the centre at random, by the options `config.affine`, at one size."""
    options = config.affine
    # Drawn whatever is switched on, so that one option does not change the others' draws.
    chance, turn, shear, stretch, down, right = rng.uniform(-1, 1, 6)
    if (chance + 1) / 2 >= options.probability:
        return sample
    h, w = sample["image"].shape[:2]
    angle, slant = math.radians(turn * options.degrees), math.tan(math.radians(shear * options.shear))
    factor = (1 + options.aspect) ** (stretch / 2)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = rotation @ np.array([[1, slant], [0, 1]]) @ np.diag([factor, 1 / factor])
    centre = np.array([w / 2, h / 2])
    offset = centre - matrix @ centre + options.shift * np.array([right * w, down * h])
    inverse = np.column_stack([matrix, offset])
    return map_pixels(sample, lambda name, array: resampled(name, array, inverse, config.mean))


def resampled(name: str, array: np.ndarray, inverse: Float[np.ndarray, "2 3"], mean: Any) -> np.ndarray:
    """A pixel field whose pixel (x, y) is that at `inverse @ (x, y, 1)`: bilinear for pictures, nearest for others.

    Args:
      name: of the field.
      array: [h, w, ...].
      inverse: in pixels, with the centre of the first one at (0.5, 0.5).
      mean: what pads each channel of a picture.
    """
    size, data = array.shape[1::-1], tuple(inverse.ravel())
    if not is_picture(name):
        pixels = np.arange(array.shape[0] * array.shape[1], dtype=np.int32).reshape(array.shape[:2])
        # Without a pixel: the padding behind the last one.
        places = np.asarray(
            Image.fromarray(pixels).transform(
                size, Image.Transform.AFFINE, data, Image.Resampling.NEAREST, fillcolor=pixels.size
            )
        )
        flat = array.reshape(pixels.size, *array.shape[2:])
        empty = np.full((1, *array.shape[2:]), fill_value(name, array.dtype)).astype(array.dtype)
        return np.concatenate([flat, empty])[places]
    bilinear = Image.Resampling.BILINEAR
    if array.dtype == np.uint8 and array.shape[2:] == (3,):
        fill = tuple(round(float(value)) for value in np.clip(mean, 0, 255))
        image = Image.fromarray(np.ascontiguousarray(array))
        return np.asarray(image.transform(size, Image.Transform.AFFINE, data, bilinear, fillcolor=fill))
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(channel, np.float32)).transform(
                size, Image.Transform.AFFINE, data, bilinear, fillcolor=float(value)
            )
        )
        for channel, value in zip(np.moveaxis(array, -1, 0), np.broadcast_to(mean, array.shape[2:]))
    ]
    found = np.stack(channels, -1)
    return found if array.dtype != np.uint8 else found.round().clip(0, 255).astype(np.uint8)
