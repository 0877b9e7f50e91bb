"""Boundary IoU (Cheng et al. 2021, arXiv:2103.16562; bowenc0221/boundary-iou-api): IoU of what lies near contours."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int, Integer

from attnseg_jax.ops.labels import IGNORE_LABEL

SHARE = 0.02


def distance(height: int, width: int, share: float = SHARE) -> int:
    """How far from a contour a pixel counts, in pixels: a share of the image's diagonal, at least 1.

    >>> distance(180, 240), distance(13, 17)
    (6, 1)
    """
    return max(1, round(share * math.hypot(height, width)))


def band(labels: Integer[np.ndarray, "h w"], reach: int) -> Bool[np.ndarray, "h w"]:
    """The pixels with another label, or with the outside of the image, at most `reach` rows and columns away.

    That is what the original's erosions with a 3x3 square take away from the mask of each label, for all at once.
    Pixels of label 255 are in no band, and nothing is near a contour because of them.
    """
    known = labels != IGNORE_LABEL
    labels = labels.astype(np.int16)
    # Ignored pixels neither are the least nor the most of a window.
    least = _windows(labels, reach, np.minimum, IGNORE_LABEL)
    most = _windows(np.where(known, labels, -1), reach, np.maximum, -1)
    inside = np.zeros(labels.shape, bool)
    inside[reach:-reach, reach:-reach] = True
    return known & ((least != most) | ~inside)


def counts(
    truth: Integer[np.ndarray, "h w"], prediction: Integer[np.ndarray, "h w"], num_classes: int, share: float = SHARE
) -> Int[np.ndarray, "2 k 3"]:
    """True positives, false positives and false negatives of each class in an image: of all pixels, and of its bands.

    The band of a class is what of its mask is near the mask's contour, in the truth and in the prediction; its true
    positives are in both. Pixels whose truth is 255 are taken out of both maps before, so that the prediction there
    changes nothing, and a contour against them is none.
    """
    known = truth != IGNORE_LABEL
    prediction = np.where(known, prediction, IGNORE_LABEL)
    reach = distance(*truth.shape, share)
    near = band(truth, reach), band(prediction, reach)
    return np.stack([
        _three(truth, prediction, known, known, num_classes),
        _three(truth, prediction, *near, num_classes),
    ])  # fmt: skip


def _three(truth, prediction, of_truth, of_prediction, num_classes: int) -> np.ndarray:
    def count(labels, chosen):
        return np.bincount(labels[chosen], minlength=IGNORE_LABEL + 1)[:num_classes]

    hits = count(truth, of_truth & of_prediction & (truth == prediction))
    return np.stack([hits, count(prediction, of_prediction) - hits, count(truth, of_truth) - hits], -1)


def _windows(x: np.ndarray, reach: int, function: Callable, neutral: int) -> np.ndarray:
    """The minimum or maximum over the square of `2 reach + 1` pixels around each pixel, cut at the borders."""
    for _ in range(2):
        x = np.pad(x, ((reach, reach), (0, 0)), constant_values=neutral)
        done, width = 1, 2 * reach + 1
        while done < width:
            step = min(done, width - done)
            x = function(x[:-step], x[step:])
            done += step
        x = x.T
    return x
