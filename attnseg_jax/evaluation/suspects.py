"""Labels that may be wrong: where a model is sure of another class than the truth has, away from contours."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from scipy import ndimage

from attnseg_jax.evaluation.error_kinds import KINDS, regions
from attnseg_jax.ops.labels import IGNORE_LABEL

SURE = 0.9
"""How sure the model has to be, as a probability."""

_OF_AN_IMAGE = 3


@dataclass(frozen=True, eq=False)
class Suspect:
    """A region in which the model is sure that the label is another one.

    Attributes:
      index: place of the image in its split.
      top, left: of the box around it, in pixels.
      mask: its pixels in that box.
      label: the class in the truth.
      predicted: the class that the model is sure of.
      confidence: mean over its pixels.
    """

    index: int
    top: int
    left: int
    mask: Bool[np.ndarray, "y x"]
    label: int
    predicted: int
    confidence: float

    @property
    def pixels(self) -> int:
        """Their number, by which suspects are ranked."""
        return int(self.mask.sum())


def suspects(
    index: int,
    truth: Integer[np.ndarray, "h w"],
    prediction: Integer[np.ndarray, "h w"],
    sure: UInt8[np.ndarray, "h w"],
    kinds: UInt8[np.ndarray, "h w"],
    number: int = _OF_AN_IMAGE,
) -> list[Suspect]:
    """The largest regions of an image whose labels are suspect, at most `number`.

    A region is connected pixels of one label and one other prediction, of which the model is sure (`SURE`), without
    errors at boundaries.

    Args:
      index: of the image.
      truth: train ids, 255 where unknown.
      prediction: train ids.
      sure: probability of the predicted class, 255 for 1.
      kinds: of `error_kinds.error_kinds`.
    """
    chosen = (kinds != IGNORE_LABEL) & (kinds != KINDS.index("boundary")) & (sure >= SURE * 255)
    numbers = regions(truth.astype(np.int64) * (1 << 16) + prediction, chosen)
    sizes = np.bincount(numbers.ravel())[1:]
    boxes = ndimage.find_objects(numbers)
    found = []
    for i in np.argsort(-sizes, kind="stable")[:number]:
        box = boxes[i]
        mask = numbers[box] == i + 1
        place = tuple(np.argwhere(mask)[0] + (box[0].start, box[1].start))
        found.append(
            Suspect(
                index,
                box[0].start,
                box[1].start,
                mask,
                int(truth[place]),
                int(prediction[place]),
                float(sure[box][mask].mean() / 255),
            )
        )
    return found
