"""The transform 'scale_crop': a random scale, then a random window."""

from typing import Any

import numpy as np
from jaxtyping import UInt8

from attnseg_jax.data.transforms.fields import Sample, Window, map_pixels, scaled_size
from attnseg_jax.ops.labels import IGNORE_LABEL

_TRIES = 10


def scale_crop(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Scale by a random factor in `config.scale` and cut a random window of at most `config.crop` out.

    The sample gets an 'offset' (y, x): where 'normalise_pad' puts a window that is smaller than the crop.
    """
    window = random_window(
        sample["label"], rng, crop=tuple(config.crop), scale=tuple(config.scale), max_class_share=config.max_class_share
    )
    return {**map_pixels(sample, window.cut_field), "offset": window.offset}


def random_window(
    label: UInt8[np.ndarray, "h w *k"],
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    max_class_share: float = 1.0,
) -> Window:
    """A random window of `crop` (h, w) in an image scaled by a random factor; smaller where the scaled image is.

    The factor is log-uniform in `scale`, so that 0.5 and 2 are equally likely.  Where a class covers more than
    `max_class_share` of the window's labelled pixels another window is drawn, up to 10 times (DeepLab-style practice,
    as in MMSegmentation's `cat_max_ratio`). Of a label [h, w, k] that is the share of its values 0, or 1.
    """
    low, high = scale
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high > low else float(low)
    scaled = scaled_size(label.shape[:2], factor)
    size = min(crop[0], scaled[0]), min(crop[1], scaled[1])
    for _ in range(_TRIES if size != scaled else 1):
        start = tuple(int(rng.integers(s - n + 1)) for s, n in zip(scaled, size))
        window = Window(scaled, start, size)
        if max_class_share >= 1 or class_share(window.cut_field("label", label)) <= max_class_share:
            break
    return Window(scaled, start, size, tuple(int(rng.integers(c - n + 1)) for c, n in zip(crop, size)))


def class_share(label: np.ndarray) -> float:
    """The largest class's share of the labelled pixels; 1 where none is labelled, so that another window is drawn."""
    counts = np.bincount(label.ravel(), minlength=IGNORE_LABEL + 1)[:IGNORE_LABEL]
    total = counts.sum()
    return counts.max() / total if total else 1.0
