"""Calibration and thresholds from integer counts: goldens of torchmetrics, and a loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, nhwc

from attnseg_jax.evaluation.calibration import calibration, thresholds
from attnseg_jax.ops.metrics import BINS, confidence_counts

counted = jax.jit(confidence_counts, static_argnums=2)


def test_against_torchmetrics():
    """Its bins of 15, and its last place for a confidence of exactly 1, of which there is none."""
    case = Golden("metrics_calibration")
    labels, logits = case.inputs()["labels"], case.inputs()["logits"]
    bonus = np.moveaxis(1.2 * np.eye(7)[np.where(labels == 255, 0, labels)], -1, 1)
    counts = np.asarray(counted(nhwc(1.6 * logits + bonus), jnp.asarray(labels), BINS))
    assert counts.shape == (1, BINS, 2) and counts.sum() == (labels != 255).sum()
    found = calibration(counts)
    assert case.expected("bin_share")[15] == 0
    for name, values in {"accuracy": found.accuracy, "share": found.share}.items():
        assert_golden(case, f"bin_{name}", np.append(np.nan_to_num(values), 0))
    # Means of the middles of narrow bins.
    half = 0.5 / BINS
    np.testing.assert_allclose(
        np.append(np.nan_to_num(found.confidence), 0), case.expected("bin_confidence"), atol=half
    )
    assert found.error == pytest.approx(float(case.expected("l1_15")), abs=half)
    assert calibration(counts, 10).error == pytest.approx(float(case.expected("l1_10")), abs=half)


def test_thresholds_against_a_loop_over_pixels():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (2, 11, 13, 2)).astype(np.float32)
    labels = rng.choice([0, 1, 255], (2, 11, 13))
    found = thresholds(np.asarray(counted(jnp.asarray(logits), jnp.asarray(labels), BINS)), 20)
    known = labels != 255
    probability = (1 / (1 + np.exp(logits[..., 0].astype(np.float64) - logits[..., 1])))[known]
    truth = labels[known] == 1
    for i, threshold in enumerate(np.arange(1, 20) / 20):
        chosen = probability >= threshold
        hits = (chosen & truth).sum()
        assert found.threshold[i] == pytest.approx(threshold)
        assert found.precision[i] == pytest.approx(hits / chosen.sum())
        assert found.recall[i] == pytest.approx(hits / truth.sum())
        assert found.iou[i] == pytest.approx(hits / (chosen | truth).sum())
    assert found.best == int(found.iou.argmax())


def test_the_best_of_equal_thresholds_is_the_nearest_to_a_half():
    counts = np.zeros((2, 100, 2), int)
    counts[0, 99, 1], counts[1, 99, 1] = 5, 5
    assert thresholds(counts, 10).threshold[thresholds(counts, 10).best] == 0.5


def test_of_no_pixel_and_of_certain_ones():
    assert np.isnan(calibration(np.zeros((1, BINS, 2), int)).error)
    assert thresholds(np.zeros((2, BINS, 2), int)).best == 0
    certain = np.asarray(counted(jnp.array([[[[0.0, 1e4, 0.0], [1e4, 0.0, 0.0]]]]), jnp.array([[[1, 2]]]), BINS))
    assert certain[0, -1].tolist() == [1, 1]


def test_counts_that_do_not_fit():
    with pytest.raises(ValueError, match="7 bins do not divide 6000"):
        calibration(np.zeros((1, BINS, 2), int), 7)
    with pytest.raises(ValueError, match="two classes"):
        thresholds(np.zeros((1, BINS, 2), int))
