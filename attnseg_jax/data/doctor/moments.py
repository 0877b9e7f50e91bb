"""Mean and deviation of the channels of many images, in bounded memory."""

import functools
import operator
from dataclasses import dataclass

import numpy as np

from attnseg_jax.data.windows import FileArray, in_bands


@dataclass(frozen=True)
class Moments:
    """Of the pixels of images: how many there are, and the sums of their values and squares in each channel."""

    pixels: int
    sums: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> "Moments":
        """Of an image [h, w, c]."""
        values = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
        return cls(len(values), values.sum(0), (values**2).sum(0))

    @classmethod
    def of_all(cls, image: np.ndarray | FileArray) -> "Moments":
        """Of a large image, some rows at a time."""
        return functools.reduce(operator.add, map(cls.of, in_bands(image)))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.pixels + other.pixels, self.sums + other.sums, self.squares + other.squares)

    @property
    def mean(self) -> np.ndarray:
        """Of each channel."""
        return self.sums / self.pixels

    @property
    def std(self) -> np.ndarray:
        """Of each channel."""
        return np.sqrt(np.maximum(self.squares / self.pixels - self.mean**2, 0))
