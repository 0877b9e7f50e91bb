"""Pixel counts of every image of a split: what scores, tables and resampling need, without the predictions."""

import base64
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Integer

from attnseg_jax.evaluation.boundary_f import boundary_f, count_contours
from attnseg_jax.evaluation.boundary_iou import count_image
from attnseg_jax.ops.metrics import ratio


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """Pixels of each image and class: true positives, false positives, false negatives.

    Attributes:
      everywhere: of all pixels that are not ignored.
      near_contours: of the pixels near contours (see `evaluation.boundary_iou.count_image`).
      contours: pixels of contours (see `evaluation.boundary_f.count_contours`); None where they were not counted.
    """

    everywhere: Int[np.ndarray, "n k 3"]
    near_contours: Int[np.ndarray, "n k 3"]
    contours: Int[np.ndarray, "n k 4"] | None = None

    @property
    def iou(self) -> Float[np.ndarray, "k"]:
        """Intersection over union of the split: of the sums of its images' counts."""
        return iou(self.everywhere.sum(0))

    @property
    def boundary_iou(self) -> Float[np.ndarray, "k"]:
        """Boundary IoU of the split: of the sums of its images' counts."""
        return iou(self.near_contours.sum(0))

    @property
    def boundary_f(self) -> Float[np.ndarray, "k"]:
        """Boundary F-score of the split: of the sums of its images' counts; NaN where they were not counted."""
        if self.contours is None:
            return np.full(self.everywhere.shape[1], np.nan)
        return boundary_f(self.contours.sum(0))

    def encode(self) -> dict[str, Any]:
        """As JSON can hold it: the sizes, and in base64 the zlib-compressed bytes of `everywhere` and `near_contours`.

        The bytes are those of little-endian 32-bit integers, first the lowest byte of all, then the second of all, ...:
        they compress to a third of what decimal numbers would take. `contours` are left out.
        """
        both = np.stack([self.everywhere, self.near_contours]).astype("<i4")
        planes = both.reshape(-1, 1).view(np.uint8).T
        text = base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()
        return {"images": both.shape[1], "classes": both.shape[2], "zlib": text}

    @classmethod
    def decode(cls, record: Mapping[str, Any]) -> "ImageCounts":
        """What `encode` returned.

        >>> counts = ImageCounts(np.full((2, 5, 3), 70000), np.full((2, 5, 3), 3))
        >>> ImageCounts.decode(counts.encode()).everywhere[1, 4].tolist()
        [70000, 70000, 70000]
        """
        planes = np.frombuffer(zlib.decompress(base64.b64decode(record["zlib"])), np.uint8).reshape(4, -1)
        numbers = np.ascontiguousarray(planes.T).view("<i4").astype(np.int64)
        everywhere, near_contours = numbers.reshape(2, record["images"], record["classes"], 3)
        return cls(everywhere, near_contours)


def iou(counts: Int[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """Intersection over union of counts (true positives, false positives, false negatives); NaN where all are 0.

    >>> iou(np.array([[3, 1, 0], [0, 0, 0]])).tolist()
    [0.75, nan]
    """
    return ratio(counts[..., 0], counts.sum(-1))


def by_class(
    count: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
    truth: Integer[np.ndarray, "h w *k"],
    prediction: Integer[np.ndarray, "h w *k"],
    num_classes: int,
) -> Int[np.ndarray, "*n k c"]:
    """What `count(truth, prediction, num_classes)` counts of each class.

    Of labels [h, w, k] each class is counted by itself, as the second of two: where it is not there, and where it is.
    """
    if truth.ndim == 2:
        return count(truth, prediction, num_classes)
    found = [count(truth[..., k], prediction[..., k], 2)[..., 1, :] for k in range(num_classes)]
    return np.stack(found, -2)


class Counter:
    """An `on_batch` of `evaluation.scores.score_batches` that counts every image; with several processes, its own rows.

    Args:
      length: images of the split.
      num_classes: classes k.
      size: place of an image in the split -> (h, w) without padding.
    """

    def __init__(self, length: int, num_classes: int, size: Callable[[int], tuple[int, int]]):
        # Those of all pixels, of those near contours, and of contours, one after another.
        self._counts = np.zeros((length, num_classes, 10), np.int32)
        self._size = size

    def __call__(self, batch: Mapping[str, Any], predictions: Array | np.ndarray) -> None:
        """Counts the rows of a batch, `label` and `predictions` [b, h, w, ...], whose `index` [b] is not negative."""
        predictions = np.asarray(predictions)
        for row, index in enumerate(np.asarray(batch["index"])):
            if index >= 0:
                h, w = self._size(int(index))
                label, guess = batch["label"][row, :h, :w], predictions[row, :h, :w]
                classes = self._counts.shape[1]
                counted = (
                    *by_class(count_image, label, guess, classes),
                    by_class(count_contours, label, guess, classes),
                )
                self._counts[index] = np.concatenate(counted, -1)

    def of(self, index: int) -> Int[np.ndarray, "k 3"]:
        """The counts of all pixels of an image that was seen."""
        return self._counts[index, :, :3]

    def result(self, add: Callable[[np.ndarray], np.ndarray] = lambda counts: counts) -> ImageCounts:
        """The counts; `add` sums an int32 array over the processes."""
        counts = np.asarray(add(self._counts), np.int64)
        return ImageCounts(*np.split(counts, [3, 6], -1))
