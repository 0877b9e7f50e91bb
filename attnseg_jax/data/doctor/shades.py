"""Masks that were not saved as drawn: which values were meant, where JPEG or smoothing put others between them."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from attnseg_jax.data.datasets import Colour
from attnseg_jax.data.doctor.summary import Key
from attnseg_jax.ops.labels import IGNORE_LABEL

# Of values between those that are meant: a smoothed mask has more, and together less of its pixels.
_FEW_BETWEEN, _SHARE_BETWEEN = 3, 0.15
# Of colours or gray values: those nearer to a more frequent one are its shades.
_NEAR = 32
# The least share of the pixels of the second most frequent value that another has, and one that lies between two has.
_PALE, _MIXED = 0.2, 0.5
_BESIDE = 4
# Up to that value, so many of those below it make a list of classes.
_HIGHEST_ID, _DENSE = 200, 0.6


def distance(a: Key, b: Key) -> int:
    """How far two gray values, or two colours, are apart: the largest difference of a channel."""
    return abs(a - b) if isinstance(a, int) else max(abs(x - y) for x, y in zip(a, b))


def centres_of(pixels: Counter) -> list[Key]:
    """The values that others gather around: the most frequent ones that are no shade of a more frequent one."""
    chosen: list[Key] = []
    for key, count in pixels.most_common(256):
        if any(distance(key, other) <= _NEAR for other in chosen):
            continue
        least = _MIXED if _is_mixture(key, chosen) else _PALE
        if len(chosen) < 2 or count >= least * pixels[chosen[1]]:
            chosen.append(key)
    return chosen


def _is_mixture(key: Key, chosen: list[Key]) -> bool:
    """Whether a value lies between two others, as what smoothing makes of a border does."""
    point, others = np.atleast_1d(key), [np.atleast_1d(other) for other in chosen]
    for a, b in itertools.combinations(others, 2):
        along = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        if abs(a + along * (b - a) - point).max() <= _NEAR:
            return True
    return False


def cleaned(key: Key) -> Key:
    """A value that was drawn as 0 or 255, most likely, where it came out a little beside."""
    if isinstance(key, int):
        return 0 if key <= _BESIDE else 255 if key >= 255 - _BESIDE else key
    return tuple(map(cleaned, key))


def is_smoothed(pixels: Counter, centres: list[Key]) -> bool:
    """Whether masks were resized or saved with smoothing: few pixels of many values between those that are meant."""
    between = {key: count for key, count in pixels.items() if key not in centres}
    if len(centres) < 2 or len(between) <= _FEW_BETWEEN or sum(between.values()) > _SHARE_BETWEEN * pixels.total():
        return False
    if isinstance(centres[0], int):
        ids = [value for value in pixels if value != IGNORE_LABEL]
        if max(ids) <= _HIGHEST_ID and len(ids) > _DENSE * (max(ids) - min(ids)):
            # Ids of classes follow each other.
            return False
        middle = (min(centres) + max(centres)) / 2
        return min(between) < middle < max(between)
    return len(between) > 3 * len(centres)


def are_mixtures(colours: Sequence[Colour]) -> bool:
    """Whether all channels hold 0 and 255 alone, each for itself in some pixels and together in others."""
    levels = {value for colour in colours for value in colour}
    shown = Counter(sum(value > 0 for value in colour) for colour in colours)
    return levels == {0, 255} and shown[1] == 3 and shown[2] + shown[3] > 1
