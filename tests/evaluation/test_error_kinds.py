"""Kinds of errors and suspect labels, by hand on maps of a few regions."""

import numpy as np

from attnseg_jax.evaluation.error_kinds import KINDS, count_kinds, count_kinds_of_classes, error_kinds
from attnseg_jax.evaluation.mistakes import Mistakes
from attnseg_jax.evaluation.suspects import suspects

BOUNDARY, CONFUSED, MISSED, INVENTED = (KINDS.index(kind) for kind in ("boundary", "confused", "missed", "invented"))


def maps():
    """40 x 60 pixels (72 of diagonal, near is 1): road below sky, and four mistakes of different kinds."""
    truth = np.zeros((40, 60), np.uint8)
    truth[20:] = 1
    prediction = truth.copy()
    # The border of sky and road is one row too low.
    prediction[20] = 0
    # A sign of 12 pixels is not seen.
    truth[5:9, 5:8] = 2
    # A car of 20 pixels is seen as a bus.
    truth[30:34, 30:35], prediction[30:34, 30:35] = 3, 4
    # A sign of 6 pixels where there is none.
    prediction[5:8, 40:42] = 2
    truth[:4, 50:] = 255
    return truth, prediction


def test_each_kind_by_hand():
    truth, prediction = maps()
    kinds = error_kinds(truth, prediction)
    assert (kinds[20] == BOUNDARY).all()
    assert (kinds[5:9, 5:8] == MISSED).all()
    assert (kinds[30:34, 30:35] == CONFUSED).all()
    assert (kinds[5:8, 40:42] == INVENTED).all()
    assert np.bincount(kinds.ravel(), minlength=256)[[0, 1, 2, 3, 255]].tolist() == [60, 20, 12, 6, 2400 - 98]
    counts = count_kinds(truth, prediction, kinds, 5)
    wrong = [(BOUNDARY, 1, 0, 60), (CONFUSED, 3, 4, 20), (MISSED, 2, 0, 12), (INVENTED, 0, 2, 6)]
    assert all(counts[kind, true, guess] == number for kind, true, guess, number in wrong) and counts.sum() == 98


def test_a_tenth_of_a_region_decides():
    """A sign of 20 pixels: with 2 of them found it is there, and the others are a boundary that is off."""
    truth = np.zeros((40, 60), np.uint8)
    truth[10:12, 10:20] = 1
    found = truth.copy()
    found[:, 11:] = 0
    kinds = error_kinds(truth, found)
    assert (kinds[10:12, 11:20] == BOUNDARY).all() and (kinds != 255).sum() == 18
    found[10, 10] = 0
    assert (error_kinds(truth, found)[truth == 1] != MISSED).sum() == 1


def test_part_of_a_region_far_from_the_border_is_confused():
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 1
    prediction = np.zeros_like(truth)
    prediction[:, 40:] = 1
    kinds = error_kinds(truth, prediction)
    assert (kinds[:, 30] == BOUNDARY).all() and (kinds[:, 31:40] == CONFUSED).all()


def test_kinds_of_classes_that_may_overlap():
    """40 x 60 pixels as above, near is 1: a square that is shifted, a region that is not found."""
    truth, prediction = np.zeros((2, 40, 60, 2), np.uint8)
    # A column too far to the right: 10 pixels are missing on the left, 10 too many on the right.
    truth[5:15, 5:20, 0] = prediction[5:15, 6:21, 0] = 1
    # In the middle of it 3 x 3 are not found.
    prediction[8:11, 10:13, 0] = 0
    # Nothing is there; what else is wrong is not known.
    prediction[30:32, 40:47, 0] = 1
    truth[30, 40:44, 0] = 255
    truth[20:30, 30:36, 1], prediction[20, 30:35, 1] = 1, 1
    prediction[21, 30:35, 1] = 1
    truth[21, 30:35, 1] = 0
    kinds = count_kinds_of_classes(truth, prediction)
    assert kinds[:, 0].tolist() == [20, 0, 9, 10]
    # Of 55 true ones 5 are found, less than a tenth: the others are missed. Half of what is predicted is right.
    assert kinds[:, 1].tolist() == [5, 0, 50, 0]
    found = Mistakes(2, lambda index: (40, 60), multilabel=True)
    found({"index": [4, -1], "label": np.stack([truth] * 2)}, np.stack([prediction] * 2), None)
    assert (found.kinds == kinds).all() and found.suspects == []


def test_suspect_labels():
    truth, prediction = maps()
    sure = np.full(truth.shape, 240, np.uint8)
    sure[5:9, 5:8] = 229  # not quite 0.9
    sure[30, 30] = 255
    kinds = error_kinds(truth, prediction)
    first, second = suspects(7, truth, prediction, sure, kinds)
    assert (first.index, first.top, first.left, first.pixels, first.label, first.predicted) == (7, 30, 30, 20, 3, 4)
    assert first.mask.all() and np.isclose(first.confidence, (19 * 240 + 255) / 20 / 255)
    assert (second.top, second.left, second.pixels, second.label, second.predicted) == (5, 40, 6, 0, 2)


def test_all_images_of_a_split():
    """Rows of padding and pixels of padding are left out; the largest suspect comes first."""
    truth, prediction = maps()
    found = Mistakes(5, lambda index: (40, 60) if index else (10, 60))
    rows = {"index": [0, -1, 1], "label": np.stack([truth, truth, truth])}
    found(rows, np.stack([prediction] * 3), np.full((3, 40, 60), 250, np.uint8))
    assert found.kinds.sum((1, 2)).tolist() == [60, 20, 2 * 12, 2 * 6]
    assert [(one.index, one.pixels) for one in found.suspects] == [(1, 20), (0, 12), (1, 12), (0, 6), (1, 6)]
