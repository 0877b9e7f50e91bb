"""Training augmentations: functions `(sample, rng, config) -> sample`, in the order of `config.data.transforms`.

A transform gets a sample (see `fields`), a NumPy generator, which is its only source of randomness, and `config.data`;
it returns a new sample and leaves the arrays that it was given as they are. It runs in several threads at once.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from attnseg_jax.data import regions
from attnseg_jax.data.transforms import degrade, geometry, mixing
from attnseg_jax.data.transforms.colour import colour_jitter
from attnseg_jax.data.transforms.crop import scale_crop
from attnseg_jax.data.transforms.fields import Sample, batch_fields, whole
from attnseg_jax.data.transforms.flip import flip
from attnseg_jax.data.transforms.normalise_pad import normalise_pad
from attnseg_jax.errors import UserError
from attnseg_jax.parts import check_takes, resolve

Transform = Callable[[Sample, np.random.Generator, Any], Sample]

TRANSFORMS: dict[str, Transform] = {
    "scale_crop": scale_crop,
    "flip": flip,
    "colour_jitter": colour_jitter,
    "normalise_pad": normalise_pad,
    "vertical_flip": geometry.vertical_flip,
    "right_angle": geometry.right_angle,
    "affine": geometry.affine,
    "gamma": degrade.gamma,
    "blur": degrade.blur,
    "noise": degrade.noise,
    "jpeg": degrade.jpeg,
    "cutout": degrade.cutout,
    "copy_paste": mixing.copy_paste,
    "class_mix": mixing.class_mix,
    "mosaic": mixing.mosaic,
}
"""Transforms by name (`config.data.transforms`)."""

_KEY = "config.data.transforms"


def chosen(config: Any) -> list[tuple[str, Transform]]:
    """The transforms that a `config.data` names, with their names, in that order.

    Raises:
      UserError: one is unknown, or cannot be called as a transform.
    """
    return [(name, _transform(name)) for name in config.transforms]


@functools.cache
def _transform(name: str) -> Transform:
    transform = resolve(TRANSFORMS, name, _KEY)
    check_takes(transform, f"{_KEY}={name!r}", None, None, None)
    return transform


def needs_others(config: Any) -> bool:
    """Whether a transform of a `config.data` asks for further samples, see `mixing`.

    Raises:
      UserError: there are regions too, which are of one image.
    """
    mixed = [name for name, transform in chosen(config) if getattr(transform, "needs_others", False)]
    if mixed and regions.used(config.regions):
        raise UserError(f"{_KEY}: {mixed[0]!r} mixes images, and config.data.regions are of one: leave one of them out")
    return bool(mixed)


def augment(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """The training augmentation of one sample by a `config.data`: 'image' float32 [h, w, 3] and 'label' int32 [h, w].

    The sample's other fields are there too, but not its 'id'. 'regions' have the ids that a model sees
    (`regions.for_model`); no other field depends on them, but the label where `config.regions.sample` is set.

    Raises:
      UserError: a transform is unknown, or what they leave is no image with its label.
    """
    *_, (_, sample) = stages(sample, rng, config)
    image, label = sample["image"], sample["label"]
    if (image.dtype, label.dtype, image.shape[:2]) != (np.float32, np.int32, label.shape[:2]):
        raise UserError(
            f"{_KEY}={tuple(config.transforms)} leaves an image {image.dtype} {image.shape} and a label {label.dtype} "
            f"{label.shape}; a model needs float32 (h, w, 3) and int32 (h, w): end with 'normalise_pad'"
        )
    # The last draw: what was drawn before is the same without it.
    return regions.for_model(batch_fields(sample), config.regions, rng)


def stages(sample: Sample, rng: np.random.Generator, config: Any) -> Iterator[tuple[str, Sample]]:
    """The sample before any transform, under the name "", and after each of them; errors as of `augment`."""
    yield "", sample
    for name, transform in chosen(config):
        sample = transform(sample, rng, config)
        if not isinstance(sample, dict):
            raise UserError(f"{_KEY}: {name!r} returned {type(sample).__name__}, not a sample (a dict)")
        if lost := {"image", "label"} - sample.keys():
            raise UserError(f"{_KEY}: {name!r} returned a sample without {' and '.join(sorted(lost))}")
        if wrong := _not_pixels(sample, config.channels or 3, "(h, w, k)" if config.mode == "multilabel" else "(h, w)"):
            raise UserError(f"{_KEY}: {name!r} returned {wrong}")
        yield name, sample


def _not_pixels(sample: Sample, channels: int, form: str) -> str:
    """What image and label are, where they are no picture and its ids; else ""."""
    image, label = (np.asarray(sample[name]) for name in ("image", "label"))
    if image.dtype.kind not in "uif":
        return f"an image of {image.dtype}: it must hold integers or floats"
    if label.dtype.kind not in "ui":
        return f"a label of {label.dtype}: it must hold integers"
    if label.ndim != len(form.split(",")) or image.shape != (*label.shape[:2], channels):
        return f"an image {image.shape} and a label {label.shape}: they must be (h, w, {channels}) and {form}"
    return ""


def scale_image(image: np.ndarray, factor: float) -> np.ndarray:
    """An image uint8 [h, w, 3] resized by `factor`: bilinear, antialiased when it shrinks."""
    return whole(image.shape[:2], factor).cut_field("image", image)
