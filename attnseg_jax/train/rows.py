"""What an evaluation finds of the rows of a batch, left on the devices until it is asked for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, UInt8


class Rows:
    """Predictions that stay on their devices until NumPy asks for them; NotFinite where their logits were none.

    Attributes:
      cross_entropy: summed over the valid pixels of all processes' rows, on the device.
      confidence: `ops.metrics.confidence_counts` of those pixels, on the device.
    """

    def __init__(
        self,
        fetch: Callable[[str], np.ndarray],
        cross_entropy: Float[Array, ""],
        confidence: Int[Array, "c n 2"],
    ):
        self._fetch, self.cross_entropy, self.confidence = fetch, cross_entropy, confidence

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._fetch("prediction"), dtype)

    def sure(self) -> UInt8[np.ndarray, "b h w"]:
        """The probability of each predicted class, 255 for 1."""
        return self._fetch("sure")
