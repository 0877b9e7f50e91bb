"""Charts of scores: the numbers that they show."""

import numpy as np

from attnseg_jax.evaluation.calibration import calibration, thresholds
from attnseg_jax.plots import score_charts


def test_the_confusion_in_shares_of_the_true_pixels():
    confusion = np.array([[30, 10, 0], [1, 399, 0], [0, 0, 0]])
    axes = score_charts.confusion_matrix(confusion, ["sky", "road", "tram"]).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array()[:2], [[75, 25, 0], [0.25, 99.75, 0]])
    # A share below half a per cent, and a class that is nowhere, stay empty.
    assert [(t.get_position(), t.get_text()) for t in axes.texts] == [((0, 0), "75"), ((1, 0), "25"), ((1, 1), "100")]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_calibration_and_thresholds():
    counts = np.zeros((2, 300, 2), int)
    counts[1, 290] = 1, 3
    counts[0, 200] = 1, 1
    found, sweep = calibration(counts), thresholds(counts)
    first, second = score_charts.calibration_chart(found, sweep).axes
    accuracy = next(line for line in first.lines if line.get_label() == "accuracy")
    np.testing.assert_array_equal(accuracy.get_ydata(), found.accuracy)
    assert first.get_title() == f"calibration error {found.error:.4f}"
    assert second.get_title() == f"IoU is highest, {sweep.iou.max():.4f}, from {sweep.threshold[sweep.best]:.2f} on"
    assert len(score_charts.calibration_chart(found).axes) == 1
