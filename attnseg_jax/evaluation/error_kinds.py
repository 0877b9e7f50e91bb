"""What kind of mistake a wrong pixel is: a boundary that is off, or a region that is missed, invented or confused."""

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8
from scipy import ndimage

from attnseg_jax.evaluation.boundary_iou import band_width, sliding
from attnseg_jax.ops.labels import IGNORE_LABEL

KINDS = ("boundary", "confused", "missed", "invented")

DEFINITIONS = {
    "boundary": "both regions are there, and the truth has the predicted class at most 2 % of the diagonal away",
    "confused": "a region of the truth is taken for another one: it is not found and what is predicted is not there, "
    "or both are and the border between them is far away",
    "missed": "the region of the truth is not found: what is predicted is part of a region that is there",
    "invented": "the predicted region is not there: the region of the truth around it is found",
}
"""In words. A region is connected pixels of one class; it is found, or there, if at least a tenth of it is right."""

OF_OVERLAPPING = {
    "boundary": "the region is there, and the border of the true one is at most 2 % of the diagonal away",
    "missed": "the class is there and not predicted: its region is not found, or a part of it far from its border",
    "invented": "the class is predicted and not there: nor is its region, or this is a part of it far from the border",
}
"""The same where classes may overlap, of each class by itself: none is taken for another."""

_TENTH = 10


def regions(values: Integer[np.ndarray, "h w"], chosen: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Numbers from 1 for the connected pixels of one value, across corners too; 0 outside `chosen`.

    >>> regions(np.array([[7, 7, 3], [3, 3, 7]]), np.array([[True, True, True], [True, False, True]])).tolist()
    [[3, 3, 1], [2, 0, 3]]
    """
    found, count = np.zeros(values.shape, np.int64), 0
    for value in np.unique(values[chosen]):
        numbers, more = ndimage.label(chosen & (values == value), np.ones((3, 3)))
        found = np.where(numbers > 0, numbers + count, found)
        count += more
    return found


def error_kinds(truth: Integer[np.ndarray, "h w"], prediction: Integer[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The place in `KINDS` of each wrong pixel's kind, 255 for those that are right or whose truth is 255."""
    known = truth != IGNORE_LABEL
    wrong = known & (truth != prediction)
    unfound, absent = (_lost(labels, known, ~wrong) for labels in (truth, prediction))
    reach, near = band_width(*truth.shape), np.zeros(truth.shape, bool)
    for k in np.unique(prediction[wrong]):
        near |= (prediction == k) & sliding(truth == k, reach, np.maximum, False)
    kinds = np.select(
        [unfound & ~absent, absent & ~unfound, near & ~unfound & ~absent],
        [KINDS.index(kind) for kind in ("missed", "invented", "boundary")],
        KINDS.index("confused"),
    )
    return np.where(wrong, kinds, IGNORE_LABEL).astype(np.uint8)


def error_kinds_of_class(
    truth: Integer[np.ndarray, "h w"], prediction: Integer[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w"]:
    """As `error_kinds` of a class that others may overlap: 1 where it is there, 0 where not; see `OF_OVERLAPPING`."""
    known = truth != IGNORE_LABEL
    missing, more = (truth == 1) & (prediction == 0), (truth == 0) & (prediction == 1)
    right = known & (truth == prediction)
    reach = band_width(*truth.shape)
    kinds = np.full(truth.shape, IGNORE_LABEL, np.uint8)
    # Those of a class's own regions alone: where it is not is no region that can be found.
    for wrong, labels, other, kind in ((missing, truth, 0, "missed"), (more, prediction, 1, "invented")):
        near = sliding(truth == other, reach, np.maximum, False) & ~_lost(labels, known & (labels == 1), right)
        kinds[wrong] = np.where(near, KINDS.index("boundary"), KINDS.index(kind))[wrong]
    return kinds


def count_kinds_of_classes(
    truth: Integer[np.ndarray, "h w k"], prediction: Integer[np.ndarray, "h w k"]
) -> Int[np.ndarray, "e k"]:
    """Wrong labels by kind and class, of classes that may overlap; none is of the kind `confused`."""
    classes = range(truth.shape[-1])
    kinds = [error_kinds_of_class(truth[..., k], prediction[..., k]) for k in classes]
    return np.stack([np.bincount(found.ravel(), minlength=len(KINDS))[: len(KINDS)] for found in kinds], -1)


def _lost(labels: np.ndarray, known: np.ndarray, right: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """The pixels of regions of which less than a tenth is right."""
    numbers = regions(labels, known)
    size = np.bincount(numbers.ravel())
    hits = np.bincount(numbers[right], minlength=len(size))
    return (_TENTH * hits < size)[numbers]


def count_kinds(
    truth: Integer[np.ndarray, "h w"],
    prediction: Integer[np.ndarray, "h w"],
    kinds: UInt8[np.ndarray, "h w"],
    num_classes: int,
) -> Int[np.ndarray, "e k k"]:
    """Pixels by kind, true class and predicted class; their sum over the kinds is the confusion off its diagonal."""
    wrong = kinds != IGNORE_LABEL
    shape = (len(KINDS), num_classes, num_classes)
    cells = np.ravel_multi_index((kinds[wrong], truth[wrong], prediction[wrong]), shape)
    return np.bincount(cells, minlength=np.prod(shape)).reshape(shape)
