"""The transform 'normalise_pad', which ends a list: numbers as a model takes them, padded to one size."""

from typing import Any

import numpy as np

from attnseg_jax.data.transforms.fields import Sample, fill_value, is_picture, map_pixels, normalise, pad
from attnseg_jax.errors import UserError


def normalise_pad(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Normalise the pictures and pad all pixel fields to `config.crop`, at the 'offset' that 'scale_crop' drew."""
    size = tuple(config.crop)
    h, w = sample["image"].shape[:2]
    if h > size[0] or w > size[1]:
        raise UserError(
            f"config.data.transforms={tuple(config.transforms)}: an image of {h} x {w} pixels is larger than "
            f"config.data.crop={size} when it comes to 'normalise_pad': put 'scale_crop' before it"
        )
    return normalised_and_padded(sample, config, size)


def normalised_and_padded(sample: Sample, config: Any, size: tuple[int, int], padding: str = "mean") -> Sample:
    """The sample with pictures normalised and pixel fields padded to `size` (h, w), at its 'offset' or the start.

    Pictures are padded with zeros, which is the mean colour, or where `padding` is 'reflect' with their mirror image
    about the last pixel; labels with 255, regions with -1, other fields with 0.
    """
    offset = sample.get("offset", (0, 0))

    def change(name: str, array: np.ndarray) -> np.ndarray:
        array = normalise(array, config.mean, config.std, config.channel_order) if is_picture(name) else array
        if is_picture(name) and padding == "reflect":
            around = [(at, larger - at - n) for at, larger, n in zip(offset, size, array.shape)]
            return np.pad(array, [*around, (0, 0)], "reflect")
        return pad(array, size, offset, fill_value(name, array.dtype))

    return map_pixels(sample, change)
