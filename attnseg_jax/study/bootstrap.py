"""Is one system better than another, or is it the choice of images, or of seeds? Paired bootstrap and Welch's t."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtr, stdtrit

from attnseg_jax.evaluation.counts import iou

RESAMPLES = 10_000
_CHUNK = 500  # resamples at once, for the sake of memory


@dataclass(frozen=True)
class Spread:
    """Where the difference of two systems lies.

    Attributes:
      low: lower end of the interval of 95 %.
      high: upper end.
      confidence: that A is better.
    """

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Comparison:
    """How much better A is than B.

    Attributes:
      difference: mIoU of A less that of B, on the split as it is.
      images: what these very networks would give on other images.
      seeds: what the means over many seeds would give, on other images. None where a system has one seed only.
    """

    difference: float
    images: Spread
    seeds: Spread | None


def compare(
    systems: Mapping[str, Sequence[Int[np.ndarray, "n k 3"]]], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[tuple[str, str], Comparison]:
    """The comparison of each ordered pair of systems; the diagonal is left out.

    For `Comparison.images` a split of as many images is drawn with replacement, the same one for all systems; a
    system's score there is the mIoU of its summed counts, averaged over its seeds (Efron & Tibshirani 1993, ch. 13;
    Koehn 2004, W04-3250). The interval is that of the middle 95 % of the draws, the confidence the share in which A is
    better; equal ones count half.

    A few seeds cannot be drawn again that way: three of them know little of how far seeds differ. For
    `Comparison.seeds` that uncertainty is in Student's t: the variance of the difference is that over the drawn splits
    and, for each system, that of its seeds by their number, with the degrees of freedom of Welch 1947.

    Args:
      systems: label -> counts of every image and class (true positives, false positives, false negatives), one array
        for each seed; all of the same images.
      resamples: number of splits that are drawn.
      seed: of the drawing.

    Raises:
      ValueError: systems that were not counted on the same images.
    """
    arrays = {label: [np.asarray(counts, np.int64) for counts in seeds] for label, seeds in systems.items()}
    first = next(iter(arrays.values()))[0] if arrays else np.zeros((1, 1, 3), np.int64)
    for label, seeds in arrays.items():
        for counts in seeds:
            # True positives and false negatives are the pixels of the truth.
            if counts.shape != first.shape or (counts[..., [0, 2]].sum(-1) != first[..., [0, 2]].sum(-1)).any():
                raise ValueError(f"{label!r} was counted on other images than {next(iter(arrays))!r}")
    whole = {label: _scores(seeds, np.ones((1, len(first))))[:, 0] for label, seeds in arrays.items()}
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {label: [] for label in arrays}
    for start in range(0, resamples, _CHUNK):
        number = min(_CHUNK, resamples - start)
        times = rng.multinomial(len(first), np.full(len(first), 1 / len(first)), number).astype(np.float64)
        for label, seeds in arrays.items():
            parts[label].append(_scores(seeds, times).mean(0))
    drawn = {label: np.concatenate(found) for label, found in parts.items()}

    def comparison(a: str, b: str) -> Comparison:
        differences = drawn[a] - drawn[b]
        several = len(whole[a]) > 1 and len(whole[b]) > 1
        return Comparison(
            float(whole[a].mean() - whole[b].mean()),
            _over_images(differences),
            _over_seeds(whole[a], whole[b], differences.var(), len(first)) if several else None,
        )

    return {(a, b): comparison(a, b) for a, b in permutations(arrays, 2)}


def _scores(seeds: Sequence[np.ndarray], times: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "s r"]:
    """mIoU of each seed on each split, in which an image stands so many times."""
    means = []
    for counts in seeds:
        # Sums of pixels are far below 2^53: exact.
        values = iou((times @ counts.reshape(len(counts), -1)).reshape(len(times), *counts.shape[1:]))
        known = ~np.isnan(values)
        means.append(np.where(known, values, 0.0).sum(-1) / np.maximum(known.sum(-1), 1))
    return np.stack(means)


def _over_images(differences: Float[np.ndarray, "r"]) -> Spread:
    low, high = np.quantile(differences, (0.025, 0.975))
    confidence = ((differences > 0) + 0.5 * (differences == 0)).mean()
    return Spread(float(low), float(high), float(confidence))


def _over_seeds(a: Float[np.ndarray, "s"], b: Float[np.ndarray, "t"], of_images: float, images: int) -> Spread:
    """By the scores of the seeds, and the variance of the difference over images, which are so many."""
    difference = float(a.mean() - b.mean())
    # A variance, and the degrees of freedom that it is known with.
    parts = [(of_images, images - 1), *((scores.var(ddof=1) / len(scores), len(scores) - 1) for scores in (a, b))]
    total = sum(variance for variance, _ in parts)
    if not total:
        return Spread(difference, difference, 0.5 + 0.5 * float(np.sign(difference)))
    freedom = total**2 / sum(variance**2 / known for variance, known in parts if variance)
    error = math.sqrt(total)
    half = float(stdtrit(freedom, 0.975)) * error
    return Spread(difference - half, difference + half, float(stdtr(freedom, difference / error)))
