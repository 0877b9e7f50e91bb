"""Boundary F-score (Martin et al. 2004; Csurka et al. 2013, "What is a good evaluation measure for semantic
segmentation?"): how many pixels of contours are found, and how many of those that are predicted are right."""

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy.spatial import cKDTree

from attnseg_jax.evaluation.boundary_iou import band_width
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.metrics import ratio

SHARE = 0.0075
"""How far a contour may be off, as a share of the image's diagonal; that of Csurka et al."""


def contour(labels: Integer[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels beside one of another class, above, below, left or right; 255 and the image's border make none.

    >>> contour(np.array([[0, 0, 1, 255], [0, 0, 0, 0]])).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 1, 0]]
    """
    found, known = np.zeros(labels.shape, bool), labels != IGNORE_LABEL
    for one, other in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = (labels[one] != labels[other]) & known[one] & known[other]
        found[one] |= differs
        found[other] |= differs
    return found


def count_contours(
    truth: Integer[np.ndarray, "h w"], prediction: Integer[np.ndarray, "h w"], num_classes: int, share: float = SHARE
) -> Int[np.ndarray, "k 4"]:
    """Pixels of each class's contour in the prediction, those of them near that of the truth, and the other way round.

    Near is a distance of at most `band_width` pixels of this `share`. A class's contour is the pixels of the class in
    `contour`. Pixels whose truth is 255 are taken out of both maps first.
    """
    prediction = np.where(truth == IGNORE_LABEL, IGNORE_LABEL, prediction)
    within = band_width(*truth.shape, share)
    guessed, true = (_points(labels, within) for labels in (prediction, truth))
    # Squares of distances between pixels are integers.
    bound = np.sqrt(within**2 + 0.5)
    found = []
    for points, others in ((guessed, true), (true, guessed)):
        near = np.zeros(len(points), bool)
        if len(points) and len(others):
            near = np.isfinite(cKDTree(others).query(points, distance_upper_bound=bound)[0])
        classes = (points[:, 2] // _apart(within)).astype(np.int64)
        found += [np.bincount(chosen, minlength=num_classes) for chosen in (classes, classes[near])]
    return np.stack(found, -1)


def boundary_f(counts: Int[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n"]:
    """The harmonic mean of precision and recall of counts of `count_contours`, or of sums of them.

    0 where no contour of the truth is predicted; NaN where the truth has none, because the class is not there, or
    because a margin of 255 around it hides where it ends.

    >>> boundary_f(np.array([[8, 4, 4, 4], [0, 0, 3, 0], [3, 0, 0, 0]])).round(4).tolist()
    [0.6667, 0.0, nan]
    """
    precision, recall = (np.nan_to_num(ratio(counts[..., i + 1], counts[..., i])) for i in (0, 2))
    score = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return np.where(counts[..., 2] > 0, score, np.nan)


def _points(labels: np.ndarray, within: int) -> Int[np.ndarray, "n 3"]:
    """Row, column and class of the contours' pixels; classes are further apart than any that are near."""
    y, x = np.nonzero(contour(labels))
    return np.stack([y, x, labels[y, x].astype(np.int64) * _apart(within)], -1)


def _apart(within: int) -> int:
    return within + 2
