"""Whether a model is right as often as it is sure; of two classes, the scores of other thresholds than one half."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from attnseg_jax.ops.metrics import ratio

BINS = 15
"""Bins of a reliability diagram."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """How sure and how often right a model is, in bins of equal width of its confidence.

    The confidence of a pixel is the largest of its probabilities.

    Attributes:
      confidence: mean of each bin; NaN where it is empty.
      accuracy: share of its pixels that are right.
      share: of the pixels, those in the bin.
    """

    confidence: Float[np.ndarray, "n"]
    accuracy: Float[np.ndarray, "n"]
    share: Float[np.ndarray, "n"]

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al. 2015; Guo et al. 2017): mean gap of a pixel's bin, 0 is best."""
        if np.isnan(self.share).all():
            return float("nan")
        return float(np.nansum(self.share * np.abs(self.accuracy - self.confidence)))


def calibration(counts: Int[np.ndarray, "*c m 2"], bins: int = BINS) -> Calibration:
    """The calibration of what `ops.metrics.confidence_counts` counted; `bins` divides their number m.

    Means over a bin are those of the middles of the narrow bins in it, right to half of their width.

    Raises:
      ValueError: `bins` does not divide m.

    >>> counts = np.zeros((1, 10, 2), int)
    >>> counts[0, 9] = 1, 3
    >>> found = calibration(counts, bins=5)
    >>> found.accuracy[4].item(), found.confidence[4].item(), round(found.error, 6)
    (0.75, 0.95, 0.2)
    """
    counts = np.asarray(counts, np.int64)
    counts = counts.reshape(-1, *counts.shape[-2:]).sum(0)
    if len(counts) % bins:
        raise ValueError(f"{bins} bins do not divide {len(counts)}")
    middles = (np.arange(len(counts)) + 0.5) / len(counts)
    pixels, sums = counts.sum(1).reshape(bins, -1), (counts.sum(1) * middles).reshape(bins, -1)
    size = pixels.sum(1)
    return Calibration(
        confidence=ratio(sums.sum(1), size),
        accuracy=ratio(counts[:, 1].reshape(bins, -1).sum(1), size),
        share=ratio(size, size.sum()),
    )


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Scores of the second of two classes where it is predicted from a probability of `threshold` on.

    Each is NaN where no pixel decides.
    """

    threshold: Float[np.ndarray, "n"]
    precision: Float[np.ndarray, "n"]
    recall: Float[np.ndarray, "n"]
    iou: Float[np.ndarray, "n"]

    @property
    def best(self) -> int:
        """Where the IoU is highest; of equal ones where the threshold is nearest to a half."""
        highest = np.flatnonzero(self.iou == np.nanmax(self.iou)) if (self.iou >= 0).any() else np.array([0])
        return int(highest[np.abs(self.threshold[highest] - 0.5).argmin()])


def thresholds(counts: Int[np.ndarray, "2 m 2"], number: int = 100) -> Thresholds:
    """Scores at `number - 1` thresholds, multiples of `1 / number`, of what `ops.metrics.confidence_counts` counted.

    Raises:
      ValueError: the counts are not of two classes, or `number` does not divide their bins.

    >>> counts = np.zeros((2, 4, 2), int)
    >>> counts[1, 3, 1], counts[1, 2, 0], counts[0, 2, 0] = 5, 2, 1  # 5 hits, 2 false alarms, 1 of 0.25 to 0.5 missed
    >>> found = thresholds(counts, 4)
    >>> found.threshold.tolist(), found.iou.tolist()
    ([0.25, 0.5, 0.75], [0.75, 0.625, 0.8333333333333334])
    """
    counts = np.asarray(counts, np.int64)
    m = counts.shape[1]
    if len(counts) != 2 or m % number:
        raise ValueError(f"needs counts of two classes in bins that {number} divides, got {counts.shape}")
    # By the probability of the second class: where the first is predicted that is one less the confidence.
    negative = counts[0, ::-1, 1] + counts[1, :, 0]
    positive = counts[0, ::-1, 0] + counts[1, :, 1]
    step = m // number
    found, wrong = (x[::-1].cumsum()[::-1][step::step] for x in (positive, negative))
    return Thresholds(
        threshold=np.arange(1, number) / number,
        precision=ratio(found, found + wrong),
        recall=ratio(found, positive.sum()),
        iou=ratio(found, positive.sum() + wrong),
    )
