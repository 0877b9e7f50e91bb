"""Boundary IoU (Cheng et al. 2021, arXiv:2103.16562; bowenc0221/boundary-iou-api): IoU of the pixels near contours."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int, Integer

from attnseg_jax.ops.labels import IGNORE_LABEL

SHARE = 0.02
"""Width of a contour's band as a share of the image's diagonal; the original's default."""


def band_width(height: int, width: int, share: float = SHARE) -> int:
    """How many pixels a contour's band is wide: a share of the image's diagonal, at least 1.

    >>> band_width(180, 240), band_width(13, 17)
    (6, 1)
    """
    return max(1, round(share * math.hypot(height, width)))


def contour_band(labels: Integer[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """The pixels with another label, or with the outside of the image, at most `width` rows and columns away.

    The original erodes the mask of each label with a 3x3 square and takes the difference; this is the union of these
    differences over all labels. Pixels of label 255 are in no band, and make no contour with their neighbours.
    """
    known = labels != IGNORE_LABEL
    labels = labels.astype(np.int16)
    # An ignored pixel is neither the smallest nor the largest label of its window.
    smallest = sliding(labels, width, np.minimum, IGNORE_LABEL)
    largest = sliding(np.where(known, labels, -1), width, np.maximum, -1)
    inside = np.zeros(labels.shape, bool)
    inside[width:-width, width:-width] = True
    return known & ((smallest != largest) | ~inside)


def count_image(
    truth: Integer[np.ndarray, "h w"], prediction: Integer[np.ndarray, "h w"], num_classes: int, share: float = SHARE
) -> Int[np.ndarray, "2 k 3"]:
    """True positives, false positives and false negatives of each class in an image: of all pixels, and of its bands.

    The band of a class is the part of its mask near the mask's contour; a true positive is in the band of the truth and
    in that of the prediction. Pixels whose truth is 255 are taken out of both maps first: whatever is predicted there
    changes nothing, and they make no contour.

    Args:
      truth: train ids, 255 where unknown.
      prediction: train ids.
      num_classes: classes k.
      share: see `band_width`.
    """
    known = truth != IGNORE_LABEL
    prediction = np.where(known, prediction, IGNORE_LABEL)
    width = band_width(*truth.shape, share)
    bands = contour_band(truth, width), contour_band(prediction, width)
    return np.stack([
        _outcomes(truth, prediction, known, known, num_classes),
        _outcomes(truth, prediction, *bands, num_classes),
    ])  # fmt: skip


def _outcomes(truth, prediction, of_truth, of_prediction, num_classes: int) -> np.ndarray:
    """True positives, false positives and false negatives [k, 3] of the chosen pixels of truth and prediction."""

    def count(labels, chosen):
        return np.bincount(labels[chosen], minlength=IGNORE_LABEL + 1)[:num_classes]

    hits = count(truth, of_truth & of_prediction & (truth == prediction))
    return np.stack([hits, count(prediction, of_prediction) - hits, count(truth, of_truth) - hits], -1)


def sliding(x: np.ndarray, reach: int, function: Callable, neutral: int | bool) -> np.ndarray:
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
