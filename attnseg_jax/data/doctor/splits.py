"""Which splits of a data set are trained on and evaluated, where it has none too."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attnseg_jax.data.layouts import held_out, stacks

TRAIN = ("train", "training", "trainaug", "trainval")
VALIDATION = ("val", "validation", "valid", "dev", "eval")
SHARE = 0.2
# A number at the end, behind a word that it counts.
SEQUENCE = r"^(.*[^0-9])[0-9]+$"
_LEAST_GROUPS, _LEAST_OF_GROUP = 5, 3


@dataclass(frozen=True)
class Splits:
    """The names of the splits, `config.data.split`, why, and what is not sure."""

    train: str
    validation: str
    split: tuple = ()
    reason: str = ""
    doubt: str = ""


def propose_splits(names: Sequence[str], names_of_train: Sequence[str], *, stacked: bool = False) -> Splits:
    """The splits to train and to evaluate on.

    Args:
      names: of the splits that the files tell; () where they tell none.
      names_of_train: of the pairs that there are to train on, whose groups a split keeps together.
      stacked: whether they are pages, of which ten that follow each other stay together in a stack that is alone.

    >>> propose_splits(["test", "train", "valid"], ["a"]).validation
    'valid'
    """
    train = _first(TRAIN, names) or next((name for name in names if name.startswith("train")), "")
    train = train or (names[0] if names else "train")
    validation = _first(VALIDATION, [name for name in names if name != train])
    if validation:
        return Splits(train, validation, reason=f"splits that are there: {', '.join(names)}")
    share, pattern, doubt = SHARE, _groups(names_of_train), ""
    how = "whole sequences" if pattern else "pictures"
    if stacked and not pattern:
        pattern, how = stacks.BLOCK, "blocks of ten pages, since neighbours are alike,"
    split = ("hash", share, pattern) if pattern else ("hash", share)
    held = len(held_out(names_of_train, split)) if names_of_train else 0
    kept = " The split 'test' is left for the end." if "test" in names else ""
    reason = f"no validation split: {held} of {len(names_of_train)} pairs, {how} by a hash of their names.{kept}"
    if not pattern and (count := _sequences(names_of_train)):
        doubt = (
            f"names look like {count} sequences of numbered pictures: where neighbours are alike, validation by single "
            "pictures is too kind; hold out a whole sequence by a third value of data.split"
        )
    return Splits(train, "val" if train != "val" else "validation", split, reason, doubt)


def _first(words: Sequence[str], names: Sequence[str]) -> str:
    """The first name that is one of the words, or else one of them and a number, such as a year; "" for none.

    >>> _first(TRAIN, ["val2017", "train2017"]), _first(VALIDATION, ["evaluation"])
    ('train2017', '')
    """
    whole = [name for word in words for name in names if name == word]
    return [*whole, *(name for word in words for name in names if re.fullmatch(rf"{word}[^a-zA-Z]+", name)), ""][0]


def _counted(names: Sequence[str]) -> Counter:
    found = (re.search(SEQUENCE, name) for name in names)
    return Counter(match[1] for match in found if match)


def _groups(names: Sequence[str]) -> str:
    """The pattern of sequences where there are several of some length and the hash divides them fairly; or ""."""
    counts = _counted(names)
    if len(counts) < _LEAST_GROUPS or counts.total() < len(names) or counts.total() < _LEAST_OF_GROUP * len(counts):
        return ""
    share = len(held_out(names, ("hash", SHARE, SEQUENCE))) / len(names)
    return SEQUENCE if 0.5 * SHARE <= share <= 2 * SHARE else ""


def _sequences(names: Sequence[str]) -> int:
    counts = _counted(names)
    return len(counts) if len(counts) > 1 and counts.total() >= _LEAST_OF_GROUP * len(counts) else 0
