"""The transform 'scale_crop': a random scale, then a random window."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from attnseg_jax.data import datasets
from attnseg_jax.data.class_masks import where
from attnseg_jax.data.transforms.fields import Sample, Window, map_pixels, scaled_size
from attnseg_jax.data.windows import is_large
from attnseg_jax.ops.labels import IGNORE_LABEL

_TRIES = 10


def scale_crop(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Scale by a random factor in `config.scale` and cut a random window of at most `config.crop` out.

    The factor is on top of what makes the shorter side `config.shorter_side`, where that is not 0.
    With probability `config.foreground.probability` it is one that shows foreground.
    The sample gets an 'offset' (y, x): where 'normalise_pad' puts a window that is smaller than the crop.
    """
    # Nothing is drawn for what is switched off.
    seeks = config.foreground.probability > 0 and rng.random() < config.foreground.probability
    window = random_window(
        sample["label"],
        rng,
        crop=tuple(config.crop),
        scale=tuple(config.scale),
        # Parts of a mosaic are scaled already.
        shorter_side=0 if "shortened" in sample else config.shorter_side,
        interpolation=config.interpolation,
        max_class_share=config.max_class_share,
        wanted=_foreground(sample["label"], config) if seeks else None,
    )
    return {**map_pixels(sample, window.cut_field), "offset": window.offset}


def _foreground(label: Shaped[np.ndarray, "h w *k"], config: Any) -> Sequence[int]:
    """The train ids of `config.foreground.classes`, or of all classes but the first; of all that may overlap."""
    if names := config.foreground.classes:
        return datasets.train_ids(config, "foreground.classes", names)
    return range(*label.shape[2:]) if label.shape[2:] else range(1, IGNORE_LABEL)


def random_window(
    label: UInt8[np.ndarray, "h w *k"],
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    shorter_side: int = 0,
    interpolation: str = "bilinear",
    max_class_share: float = 1.0,
    wanted: Sequence[int] | None = None,
) -> Window:
    """A random window of `crop` (h, w) in an image scaled by a random factor; smaller where the scaled image is.

    The factor is log-uniform in `scale`, so that 0.5 and 2 are equally likely; of an image whose shorter side is
    `shorter_side`, where that is not 0.  Up to 10 windows are drawn for one in which no class covers more than
    `max_class_share` of the labelled pixels (DeepLab-style practice, as in MMSegmentation's `cat_max_ratio`; of a label
    [h, w, k] the values 0 and 1 stand for classes), and which shows one of the `wanted` train ids.  Such windows are
    drawn around a pixel of these, any of them with one probability; in very large images, whose labels are not all
    read, anywhere.
    """
    low, high = scale
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high > low else float(low)
    factor *= shorter_side / min(label.shape[:2]) if shorter_side else 1
    scaled = scaled_size(label.shape[:2], factor)
    size = min(crop[0], scaled[0]), min(crop[1], scaled[1])
    pixels = np.flatnonzero(where(label, wanted)) if wanted is not None and not is_large(label) else ()
    for _ in range(_TRIES if size != scaled else 1):
        if len(pixels):
            seen = np.unravel_index(pixels[rng.integers(len(pixels))], label.shape[:2])
            start = tuple(_around(*place, rng) for place in zip(seen, label.shape, scaled, size))
        else:
            start = tuple(int(rng.integers(s - n + 1)) for s, n in zip(scaled, size))
        window = Window(scaled, start, size)
        if max_class_share >= 1 and wanted is None:
            break
        shown = window.cut_field("label", label)
        if class_share(shown) <= max_class_share and (wanted is None or where(shown, wanted).any()):
            break
    offset = tuple(int(rng.integers(c - n + 1)) for c, n in zip(crop, size))
    return Window(scaled, start, size, offset, interpolation)


def _around(pixel: int, length: int, scaled: int, size: int, rng: np.random.Generator) -> int:
    """Where a window of `size` begins, of those along one axis that show a pixel once it is scaled."""
    place = int((pixel + 0.5) * scaled / length)
    return int(rng.integers(max(0, place - size + 1), min(place, scaled - size) + 1))


def class_share(label: np.ndarray) -> float:
    """The largest class's share of the labelled pixels; 1 where none is labelled, so that another window is drawn."""
    counts = np.bincount(label.ravel(), minlength=IGNORE_LABEL + 1)[:IGNORE_LABEL]
    total = counts.sum()
    return counts.max() / total if total else 1.0
