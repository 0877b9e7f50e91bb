"""Boundary F-score: by hand, and against distances between all pairs of pixels."""

import numpy as np
import pytest

from attnseg_jax.evaluation.boundary_f import boundary_f, contour, count_contours
from attnseg_jax.evaluation.counts import Counter


def test_by_hand():
    """A square of 4 x 4 in 30 x 40 pixels (50 of diagonal, near is 1 pixel), found two columns too far to the right."""
    truth = np.zeros((30, 40), np.uint8)
    truth[10:14, 10:14] = 1
    counts = count_contours(truth, np.roll(truth, 2, 1), 3)
    # The square's contour is its 12 outer pixels. Of the predicted ring, columns 12 to 15, near to the true one are
    # columns 12, 13 (2 + 2 pixels of its upper and lower side, 2 in the middle of column 12), and (10, 14), (13, 14),
    # beside (10, 13) and (13, 13).
    assert counts[1].tolist() == [12, 8, 12, 8]
    # Sixteen pixels of the other class touch the square.
    assert counts[0, [0, 2]].tolist() == [16, 16]
    assert counts[2].tolist() == [0, 0, 0, 0]
    found = boundary_f(counts)
    assert found[1] == pytest.approx(8 / 12) and np.isnan(found[2])
    assert boundary_f(count_contours(truth, np.roll(truth, 1, 1), 2)).tolist() == [1, 1]


def all_pairs(truth, prediction, num_classes, share):
    """The counts from the distances between all pixels of two contours of a class."""
    h, w = truth.shape
    within = max(1, round(share * np.hypot(h, w)))
    prediction = np.where(truth == 255, 255, prediction)
    found = np.zeros((num_classes, 4), int)
    for k in range(num_classes):
        points = []
        for labels in (prediction, truth):
            inside = [
                (y, x)
                for y in range(h)
                for x in range(w)
                if labels[y, x] == k
                and any(
                    0 <= y + v < h and 0 <= x + u < w and labels[y + v, x + u] not in (k, 255)
                    for v, u in ((0, 1), (1, 0), (0, -1), (-1, 0))
                )
            ]
            points.append(np.array(inside).reshape(-1, 2))
        near = ((points[0][:, None] - points[1][None]) ** 2).sum(-1) <= within**2
        found[k] = len(points[0]), near.any(1).sum(), len(points[1]), near.any(0).sum()
    return found


@pytest.mark.parametrize("share", [0.0075, 0.1, 0.15])
def test_against_all_pairs(share):
    rng = np.random.default_rng(3)
    truth = np.kron(rng.integers(0, 4, (5, 6)), np.ones((4, 5), int))[:19, :27]
    prediction = np.where(
        rng.random(truth.shape) < 0.05, rng.integers(0, 4, truth.shape), np.roll(truth, (1, 2), (0, 1))
    )
    truth = np.where(rng.random(truth.shape) < 0.05, 255, truth)
    counts = count_contours(truth, prediction, 5, share)
    np.testing.assert_array_equal(counts, all_pairs(truth, prediction, 5, share))
    assert boundary_f(counts)[:4].min() > 0 and np.isnan(boundary_f(counts)[4])
    # Of a split: of the sums of its images, whatever is predicted where the truth is unknown.
    counter = Counter(2, 5, lambda index: truth.shape)
    other = np.where(truth == 255, 4, prediction)
    counter({"index": [1, 0], "label": np.stack([truth, prediction])}, np.stack([other, truth % 5]))
    both = count_contours(truth, prediction, 5) + count_contours(prediction, truth % 5, 5)
    np.testing.assert_array_equal(counter.result().boundary_f, boundary_f(both))


def test_a_contour_in_one_map_alone():
    plain = np.zeros((6, 7), np.uint8)
    dotted = plain.copy()
    dotted[2, 3] = 1
    assert not contour(plain).any()
    assert boundary_f(count_contours(dotted, plain, 3)).tolist()[:2] == [0, 0]
    assert np.isnan(boundary_f(count_contours(plain, dotted, 3))).all()


def test_a_margin_without_labels_hides_where_a_class_ends():
    """No contour of the truth is left to be found or missed, whatever is predicted."""
    truth = np.array([[0, 0, 255, 1, 1], [0, 0, 255, 1, 1]])
    prediction = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    counts = count_contours(truth, prediction, 2)
    assert counts.tolist() == [[2, 0, 0, 0], [1, 0, 0, 0]] and np.isnan(boundary_f(counts)).all()
