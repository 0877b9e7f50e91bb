"""Is one system better than another, or is it the choice of images, or of seeds? Paired bootstrap over both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int

from attnseg_jax.infer.counts import iou

RESAMPLES = 10_000
_CHUNK = 500  # resamples at once, for the sake of memory


@dataclass(frozen=True)
class Spread:
    """What the difference of two systems becomes when something is drawn again.

    Attributes:
      low: the difference that 2.5 % of the draws stay below.
      high: the one that 2.5 % exceed.
      confidence: share of the draws in which A is better; equal ones count half.
    """

    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Comparison:
    """How much better A is than B.

    Attributes:
      difference: mIoU of A less that of B, on the split as it is.
      images: its spread over resampled images; what other images would give, from these very networks.
      seeds: its spread over images and seeds; what training again would give. None where a system has one seed only.
    """

    difference: float
    images: Spread
    seeds: Spread | None


def compare(
    systems: Mapping[str, Sequence[Int[np.ndarray, "n k 3"]]], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[tuple[str, str], Comparison]:
    """The comparison of each ordered pair of systems; the diagonal is left out.

    A split of as many images is drawn with replacement, the same one for all systems; a system's score there is the
    mIoU of its summed counts, averaged over its seeds (Efron & Tibshirani 1993, ch. 13; Koehn 2004, W04-3250). For
    `Comparison.seeds` the average is that of seeds drawn with replacement, for each system on its own: one fewer than
    there are, since the variance of the mean of n drawn ones would be short by a factor of (n - 1) / n (Rao & Wu 1988).

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
    whole = {label: _scores(seeds, np.ones((1, len(first)))).mean() for label, seeds in arrays.items()}
    for_images, for_seeds = np.random.default_rng(seed).spawn(2)
    parts: dict[str, list[np.ndarray]] = {label: [] for label in arrays}
    for start in range(0, resamples, _CHUNK):
        number = min(_CHUNK, resamples - start)
        times = for_images.multinomial(len(first), np.full(len(first), 1 / len(first)), number).astype(np.float64)
        for label, seeds in arrays.items():
            parts[label].append(_scores(seeds, times))
    scores = {label: np.concatenate(found, 1) for label, found in parts.items()}
    images = {label: found.mean(0) for label, found in scores.items()}
    drawn = {label: _drawn(found, for_seeds) for label, found in scores.items() if len(found) > 1}
    return {
        (a, b): Comparison(
            float(whole[a] - whole[b]),
            _spread(images[a] - images[b]),
            _spread(drawn[a] - drawn[b]) if a in drawn and b in drawn else None,
        )
        for a, b in permutations(arrays, 2)
    }


def _scores(seeds: Sequence[np.ndarray], times: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "s r"]:
    """mIoU of each seed on each split, in which an image stands so many times."""
    means = []
    for counts in seeds:
        # Sums of pixels are far below 2^53: exact.
        values = iou((times @ counts.reshape(len(counts), -1)).reshape(len(times), *counts.shape[1:]))
        known = ~np.isnan(values)
        means.append(np.where(known, values, 0.0).sum(-1) / np.maximum(known.sum(-1), 1))
    return np.stack(means)


def _drawn(scores: Float[np.ndarray, "s r"], rng: np.random.Generator) -> Float[np.ndarray, "r"]:
    """The mean, on each split, of all seeds but one, drawn with replacement."""
    s, r = scores.shape
    times = rng.multinomial(s - 1, np.full(s, 1 / s), r)
    return (times.T * scores).sum(0) / (s - 1)


def _spread(differences: Float[np.ndarray, "r"]) -> Spread:
    low, high = np.quantile(differences, (0.025, 0.975))
    confidence = ((differences > 0) + 0.5 * (differences == 0)).mean()
    return Spread(float(low), float(high), float(confidence))
