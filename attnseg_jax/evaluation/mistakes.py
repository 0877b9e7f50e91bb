"""The mistakes of a split, for a report: how many of each kind, and labels that are suspect."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from attnseg_jax.evaluation.error_kinds import KINDS, count_kinds, count_kinds_of_classes, error_kinds
from attnseg_jax.evaluation.suspects import Suspect, suspects

_SUSPECTS = 12


class Mistakes:
    """Looks at the images of an evaluation one after another; with several processes, at its own rows.

    Args:
      num_classes: classes k.
      size: place of an image in the split -> (h, w) without padding.
      multilabel: whether classes may overlap.

    Attributes:
      kinds: wrong pixels by kind, true class and predicted class; where classes may overlap, by kind and class.
      suspects: the largest suspect labels of all images; those of masks without a model, and those of classes that may
        overlap, are not known.
    """

    def __init__(self, num_classes: int, size: Callable[[int], tuple[int, int]], *, multilabel: bool = False):
        shape = (num_classes,) if multilabel else (num_classes, num_classes)
        self.kinds: Int[np.ndarray, "e k *c"] = np.zeros((len(KINDS), *shape), np.int64)
        self.suspects: list[Suspect] = []
        self._size = size

    def __call__(
        self, batch: Mapping[str, Any], predictions: np.ndarray, sure: UInt8[np.ndarray, "b h w"] | None
    ) -> None:
        """Looks at the rows of a batch whose `index` is not negative; `sure` is 255 for a probability of 1."""
        for row, index in enumerate(np.asarray(batch["index"]).tolist()):
            if index < 0:
                continue
            h, w = self._size(index)
            truth, prediction = batch["label"][row, :h, :w], predictions[row, :h, :w]
            if truth.ndim == 3:
                self.kinds += count_kinds_of_classes(truth, prediction)
                continue
            kinds = error_kinds(truth, prediction)
            self.kinds += count_kinds(truth, prediction, kinds, self.kinds.shape[1])
            if sure is not None:
                self.suspects += suspects(index, truth, prediction, sure[row, :h, :w], kinds)
                self.suspects = sorted(self.suspects, key=lambda one: (-one.pixels, one.index))[:_SUSPECTS]
