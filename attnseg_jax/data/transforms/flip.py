"""The transform 'flip': mirrored left to right, or not."""

from typing import Any

import numpy as np

from attnseg_jax.data.transforms.fields import Sample, map_pixels


def flip(sample: Sample, rng: np.random.Generator, config: Any) -> Sample:
    """Mirror all pixel fields left to right, or none, with probability `config.flip`."""
    if rng.random() < config.flip:
        return map_pixels(sample, lambda _, array: array[:, ::-1])
    return sample
