import jax
import jax.numpy as jnp
import numpy as np

from attnseg_jax.evaluation.calibration import thresholds
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.ops import metrics
from attnseg_jax.ops.decision import Decision
from attnseg_jax.ops.sliding import average_views

RNG = np.random.default_rng(2)
LOGITS = RNG.normal(0, 2, (2, 5, 6, 3)).astype(np.float32)
LABELS = RNG.choice([0, 1, 255], (2, 5, 6, 3), p=(0.6, 0.3, 0.1))
P = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))


def iou(k, threshold):
    known, guess, truth = LABELS[..., k] != 255, P[..., k] >= threshold, LABELS[..., k] == 1
    return (known & guess & truth).sum() / (known & (guess | truth)).sum()


def test_each_class_is_counted_by_itself_at_any_threshold():
    """Counts of two parts of a batch, one of them padded with rows that are all ignored, are those of the whole."""
    decision = Decision(multilabel=True, threshold=0.3)

    @jax.jit
    def counts(logits, labels):
        prediction = decision.classes(logits)
        return metrics.confusion_matrix(prediction, labels, 3), metrics.confidence_counts(logits, labels)

    padding = np.full((1, 5, 6, 3), 255)
    parts = [
        counts(np.concatenate([LOGITS[i : i + 1]] * 2), np.concatenate([LABELS[i : i + 1], padding])) for i in range(2)
    ]
    confusion, confidence = (sum(np.asarray(part[j], np.int64) for part in parts) for j in range(2))
    scores = Scores.from_confusion(confusion)
    np.testing.assert_allclose(scores.iou, [iou(k, 0.3) for k in range(3)])
    assert scores.multilabel and scores.confusion.shape == (3, 2, 2) and confusion.sum() == (LABELS != 255).sum()
    known = LABELS != 255
    np.testing.assert_allclose(scores.pixel_accuracy, (known & ((P >= 0.3) == (LABELS == 1))).sum() / known.sum())
    np.testing.assert_allclose(scores.share, ((LABELS == 1).sum((0, 1, 2)) / known.sum((0, 1, 2))))
    recall = (known & (P >= 0.3) & (LABELS == 1)).sum((0, 1, 2)) / (LABELS == 1).sum((0, 1, 2))
    np.testing.assert_allclose(scores.accuracy, recall)
    for k in range(3):
        sweep = thresholds(confidence[k], 10)
        np.testing.assert_allclose(sweep.iou, [iou(k, i / 10) for i in range(1, 10)])


def test_a_threshold_of_two_classes_is_that_of_the_second():
    pair = metrics.as_pair(LOGITS[..., 0])
    for threshold in (0.2, 0.5, 0.9):
        found = Decision(threshold=threshold).classes(np.asarray(pair))
        np.testing.assert_array_equal(found, P[..., 0] >= threshold)
    np.testing.assert_array_equal(Decision().classes(LOGITS), LOGITS.argmax(-1))


def test_what_is_told_of_a_prediction():
    several, one = Decision(multilabel=True), Decision()
    np.testing.assert_allclose(several.sure(LOGITS), np.maximum(P, 1 - P).min(-1), rtol=1e-5)
    bits = -(P * np.log2(P) + (1 - P) * np.log2(1 - P)).mean(-1)
    np.testing.assert_allclose(several.entropy(LOGITS), bits, rtol=1e-4, atol=1e-6)
    for decision in (several, one):
        p = decision.probabilities(LOGITS)
        np.testing.assert_allclose(decision.probabilities(decision.logits(p)), p, rtol=1e-5)


def test_views_are_averaged_as_probabilities_of_each_class():
    """The mirror image makes another prediction, so that the mean is none of either."""
    image = jnp.asarray(LOGITS)
    found = average_views(lambda x: x * jnp.arange(1.0, 7).reshape(1, 1, 6, 1), image, flip=True,
                          decision=Decision(multilabel=True))  # fmt: skip
    factors = np.arange(1.0, 7).reshape(1, 1, 6, 1)
    views = [1 / (1 + np.exp(-LOGITS.astype(float) * f)) for f in (factors, factors[:, :, ::-1])]
    np.testing.assert_allclose(Decision(multilabel=True).probabilities(found), np.mean(views, 0), rtol=1e-4, atol=1e-6)
