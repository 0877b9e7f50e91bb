"""Transforms that put parts of other training samples into one: 'copy_paste', 'class_mix', 'mosaic'.

They have `needs_others`: the sample then has the field 'others', a function of a generator that gives another sample.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool

from attnseg_jax.data import datasets
from attnseg_jax.data.class_masks import pixels_of_classes, where
from attnseg_jax.data.transforms.crop import random_window
from attnseg_jax.data.transforms.fields import Sample, fill_value, is_picture, map_pixels, pad, pixel_fields
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL

_TRIES = 10


def copy_paste(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """With probability `config.copy_paste.probability` paste what another image shows of `config.copy_paste.classes`.

    Up to ten images are looked at for one that shows any of them; it is mirrored at random and laid over this one at a
    random place.
    """
    options = config.copy_paste
    if not options.classes:
        raise UserError("config.data.copy_paste.classes is empty: name the classes that 'copy_paste' is to copy")
    classes = datasets.train_ids(config, "copy_paste.classes", options.classes)
    if rng.random() >= options.probability:
        return sample
    for _ in range(_TRIES):
        other = sample["others"](rng)
        if where(other["label"], classes).any():
            break
    if rng.random() < 0.5:
        other = map_pixels(other, lambda _, array: array[:, ::-1])
    other = _fitted(other, sample, rng, config, wanted=classes)
    return _pasted(sample, other, where(other["label"], classes))


def class_mix(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """With probability `config.class_mix.probability` paste half of the classes of another image over this one.

    ClassMix (Olsson et al. 2021, arXiv 2007.07936), here of two labelled images.
    """
    if rng.random() >= config.class_mix.probability:
        return sample
    other = _fitted(sample["others"](rng), sample, rng, config)
    shown = np.flatnonzero(pixels_of_classes(other["label"], IGNORE_LABEL))
    chosen = rng.permutation(shown)[: (len(shown) + 1) // 2]
    return _pasted(sample, other, where(other["label"], chosen))


def mosaic(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """With probability `config.mosaic.probability` make one image of `config.crop` out of parts of four.

    Each is scaled as 'scale_crop' does, before which it stands. They meet at a random point of the middle half.
    """
    if rng.random() >= config.mosaic.probability:
        return sample
    h, w = config.crop
    y, x = (round(n * rng.uniform(0.25, 0.75)) for n in (h, w))
    parts = [sample, *(sample["others"](rng) for _ in range(3))]
    sizes = [(y, x), (y, w - x), (h - y, x), (h - y, w - x)]
    tiles = []
    for part, size in zip(parts, sizes):
        options = {
            "scale": tuple(config.scale),
            "shorter_side": config.shorter_side,
            "interpolation": config.interpolation,
        }
        window = random_window(part["label"], rng, crop=size, **options)
        cut = {name: window.cut_field(name, array) for name, array in _common(part, parts).items()}
        tiles.append({name: _padded(name, array, size, window.offset, config.mean) for name, array in cut.items()})
    whole = {
        name: np.concatenate([np.concatenate([tile[name] for tile in tiles[row : row + 2]], 1) for row in (0, 2)])
        for name in tiles[0]
    }
    own = pixel_fields(sample)
    return {name: value for name, value in sample.items() if name not in own} | whole | {"shortened": True}


for _transform in (copy_paste, class_mix, mosaic):
    _transform.needs_others = True


def _common(part: Sample, parts: list[Sample]) -> dict[str, np.ndarray]:
    """The pixel fields that all parts have."""
    names = set.intersection(*({*pixel_fields(one)} for one in parts))
    return {name: array for name, array in pixel_fields(part).items() if name in names}


def _padded(name: str, array: np.ndarray, size: tuple[int, int], offset: tuple[int, int], mean: Any) -> np.ndarray:
    """A raw pixel field in one of `size`, with what stands for nothing around it: of pictures the mean colour."""
    if not is_picture(name):
        return pad(array, size, offset, array.dtype.type(fill_value(name, array.dtype)))
    canvas = np.broadcast_to(np.asarray(mean, np.float32), (*size, array.shape[2]))
    canvas = canvas.round().clip(0, 255).astype(np.uint8) if array.dtype == np.uint8 else canvas.astype(array.dtype)
    h, w = array.shape[:2]
    canvas[offset[0] : offset[0] + h, offset[1] : offset[1] + w] = array
    return canvas


def _fitted(other: Sample, sample: Sample, rng: np.random.Generator, config: Any, wanted: Any = ()) -> Sample:
    """Another sample cut or padded to the size of this one at random places; of several cuts one with a wanted class.

    It is resized to a shorter side where this one, which 'scale_crop' or 'mosaic' have seen, was.
    """
    size, side = sample["label"].shape[:2], config.shorter_side if {"offset", "shortened"} & {*sample} else 0
    for _ in range(_TRIES if len(wanted) else 1):
        window = random_window(other["label"], rng, crop=size, shorter_side=side, interpolation=config.interpolation)
        if where(window.cut_field("label", other["label"]), wanted).any():
            break
    fields = pixel_fields(other)
    return {
        name: _padded(name, window.cut_field(name, array), size, window.offset, config.mean)
        for name, array in fields.items()
    }


def _pasted(sample: Sample, other: Sample, chosen: Bool[np.ndarray, "h w"]) -> Sample:
    """The sample with the pixels of another of its size in some places, in the fields that both have."""
    mixed = {
        name: np.where(chosen.reshape(*chosen.shape, *[1] * (array.ndim - 2)), other[name], array)
        for name, array in pixel_fields(sample).items()
        if name in other
    }
    return {**sample, **mixed}
