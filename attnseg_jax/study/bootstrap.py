"""Is one system better than another, or is that the choice of images or of seeds? Paired bootstrap and Welch's t."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtr, stdtrit

from attnseg_jax.evaluation.counts import iou

RESAMPLES = 10_000
_CHUNK = 500  # draws at a time, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """Where the difference between two systems, A - B, lies.

    Attributes:
      low: lower end of the 95 % interval.
      high: its upper end.
      confidence: how sure it is that A is better, between 0 and 1.
    """

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Comparison:
    """How much better A is than B.

    Attributes:
      difference: mIoU of A minus mIoU of B, on the split as it is.
      images: the difference that these trained networks would have on other images.
      seeds: the difference that means over many seeds would have on other images; None where a system has one seed.
    """

    difference: float
    images: Interval
    seeds: Interval | None


def compare(
    systems: Mapping[str, Sequence[Int[np.ndarray, "n k 3"]]], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[tuple[str, str], Comparison]:
    """The comparison of each ordered pair of different systems.

    `Comparison.images` is a paired bootstrap (Efron & Tibshirani 1993, ch. 13; Koehn 2004, W04-3250): many times, as
    many images as the split has are drawn from it with replacement, the same ones for all systems. A system's score on
    a draw is the mIoU of its summed counts, averaged over its seeds. The interval holds the middle 95 % of the
    differences; the confidence is the share of draws in which A is better, where a tie counts half.

    `Comparison.seeds` does not draw seeds, since a few of them say little of how much seeds differ. It takes Student's
    t with the degrees of freedom of Welch 1947: the variance of the difference is its variance over the draws plus, for
    each system, the variance over its seeds divided by their number.

    Args:
      systems: label -> for each seed the counts of every image and class (true positives, false positives, false
        negatives); all of the same images.
      resamples: number of draws.
      seed: of the draws.

    Raises:
      ValueError: the systems were not counted on the same images.
    """
    arrays = {label: [np.asarray(counts, np.int64) for counts in seeds] for label, seeds in systems.items()}
    first = next(iter(arrays.values()))[0] if arrays else np.zeros((1, 1, 3), np.int64)
    for label, seeds in arrays.items():
        for counts in seeds:
            # True positives and false negatives are the pixels of the truth.
            if counts.shape != first.shape or (counts[..., [0, 2]].sum(-1) != first[..., [0, 2]].sum(-1)).any():
                raise ValueError(f"{label!r} was counted on other images than {next(iter(arrays))!r}")
    observed = {label: _scores(seeds, np.ones((1, len(first))))[:, 0] for label, seeds in arrays.items()}
    drawn = _drawn(arrays, len(first), resamples, seed)

    def comparison(a: str, b: str) -> Comparison:
        differences = drawn[a] - drawn[b]
        several = len(observed[a]) > 1 and len(observed[b]) > 1
        return Comparison(
            float(observed[a].mean() - observed[b].mean()),
            _over_images(differences),
            _over_seeds(observed[a], observed[b], differences.var(), len(first)) if several else None,
        )

    return {(a, b): comparison(a, b) for a, b in permutations(arrays, 2)}


def interval(counts: Int[np.ndarray, "n k 3"], *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the mIoU of one network on other images: of `resamples` draws of as many, see `compare`.

    >>> interval(np.array([[[8, 1, 1]]] * 5))
    (0.8, 0.8)
    """
    drawn = _drawn({"": [np.asarray(counts, np.int64)]}, len(counts), resamples, seed)[""]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _drawn(
    systems: Mapping[str, Sequence[np.ndarray]], images: int, resamples: int, seed: int
) -> dict[str, Float[np.ndarray, "r"]]:
    """The mIoU of every system on each draw of images, the same ones for all, averaged over its seeds."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {label: [] for label in systems}
    for start in range(0, resamples, _CHUNK):
        number = min(_CHUNK, resamples - start)
        # How often each image is in each draw.
        times = rng.multinomial(images, np.full(images, 1 / images), number).astype(np.float64)
        for label, seeds in systems.items():
            parts[label].append(_scores(seeds, times).mean(0))
    return {label: np.concatenate(found) for label, found in parts.items()}


def _scores(seeds: Sequence[np.ndarray], times: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "s r"]:
    """mIoU of each seed on each draw, in which an image counts as often as `times` says."""
    means = []
    for counts in seeds:
        # Exact, for sums of pixels are far below 2^53.
        values = iou((times @ counts.reshape(len(counts), -1)).reshape(len(times), *counts.shape[1:]))
        known = ~np.isnan(values)
        means.append(np.where(known, values, 0.0).sum(-1) / np.maximum(known.sum(-1), 1))
    return np.stack(means)


def _over_images(differences: Float[np.ndarray, "r"]) -> Interval:
    low, high = np.quantile(differences, (0.025, 0.975))
    confidence = ((differences > 0) + 0.5 * (differences == 0)).mean()
    return Interval(float(low), float(high), float(confidence))


def _over_seeds(a: Float[np.ndarray, "s"], b: Float[np.ndarray, "t"], of_images: float, images: int) -> Interval:
    """Welch's interval from the scores of the seeds, and the variance of the difference over a number of images."""
    difference = float(a.mean() - b.mean())
    # Variances, each with its degrees of freedom.
    parts = [(of_images, images - 1), *((scores.var(ddof=1) / len(scores), len(scores) - 1) for scores in (a, b))]
    total = sum(variance for variance, _ in parts)
    if not total:
        return Interval(difference, difference, 0.5 + 0.5 * float(np.sign(difference)))
    freedom = total**2 / sum(variance**2 / known for variance, known in parts if variance)
    error = math.sqrt(total)
    half = float(stdtrit(freedom, 0.975)) * error
    return Interval(difference - half, difference + half, float(stdtr(freedom, difference / error)))
