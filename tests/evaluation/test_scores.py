import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError
from attnseg_jax.evaluation.scores import Collector, Scores, score_batches
from attnseg_jax.evaluation.tables import finite, mean_iou, table, to_json
from attnseg_jax.ops.metrics import confusion_matrix
from attnseg_jax.train.evaluation import left_out

# Truth: 6 pixels of class 0 (4 right, 2 called 1), 3 of class 1 (all right), none of 2, 1 of class 3 (called 0).
CONFUSION = np.array([[4, 2, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
NAMES = ("sky", "road", "tram", "sign")


def test_scores_by_hand():
    scores = Scores.from_confusion(CONFUSION)
    np.testing.assert_allclose(scores.iou, [4 / 7, 3 / 5, np.nan, 0])
    np.testing.assert_allclose(scores.accuracy, [4 / 6, 1, np.nan, 0])
    np.testing.assert_allclose(scores.share, [0.6, 0.3, 0, 0.1])
    assert scores.miou == pytest.approx((4 / 7 + 3 / 5 + 0) / 3)
    assert scores.pixel_accuracy == pytest.approx(0.7)
    assert scores.class_accuracy == pytest.approx((4 / 6 + 1 + 0) / 3)
    assert scores.confusion.dtype == np.int64


def test_scores_of_nothing_are_nan():
    scores = Scores.from_confusion(np.zeros((3, 3), int))
    assert np.isnan([scores.miou, scores.pixel_accuracy, scores.class_accuracy, *scores.iou, *scores.share]).all()


def test_table_by_hand():
    assert table(Scores.from_confusion(CONFUSION), NAMES).splitlines() == [
        "class                      IoU    Dice  precision  accuracy  pixels",
        "sky                     0.5714  0.7273     0.8000    0.6667   60.0%",
        "road                    0.6000  0.7500     0.6000    1.0000   30.0%",
        "tram                    absent  absent     absent    absent    0.0%",
        "sign                    0.0000  0.0000     absent    0.0000   10.0%",
        "-------------------------------------------------------------------",
        "mIoU                    0.3905",
        "frequency-weighted IoU  0.5229",
        "mean Dice               0.4924",
        "pixel accuracy          0.7000",
        "class accuracy          0.5556",
        "mIoU of 3 of 4 classes: tram is absent",
    ]


def test_another_step_beside_the_scores():
    best = {"step": 300, "miou": 0.5, "class_accuracy": 0.75, "iou": {"sky": 0.25, "tram": None, "sign": 1.0}}
    assert table(Scores.from_confusion(CONFUSION), NAMES, best).splitlines() == [
        "class                      IoU  step 300    Dice  precision  accuracy  pixels",
        "sky                     0.5714    0.2500  0.7273     0.8000    0.6667   60.0%",
        "road                    0.6000    absent  0.7500     0.6000    1.0000   30.0%",
        "tram                    absent    absent  absent     absent    absent    0.0%",
        "sign                    0.0000    1.0000  0.0000     absent    0.0000   10.0%",
        "-----------------------------------------------------------------------------",
        "mIoU                    0.3905    0.5000",
        "frequency-weighted IoU  0.5229    absent",
        "mean Dice               0.4924    absent",
        "pixel accuracy          0.7000    absent",
        "class accuracy          0.5556    0.7500",
        "mIoU of 3 of 4 classes: tram is absent",
    ]


def test_table_says_absent_only_where_nothing_decides():
    # Class 1 is predicted and never true: its IoU is 0, its accuracy is undefined.
    lines = table(Scores.from_confusion(np.array([[3, 1], [0, 0]])), ["a", "a much longer name"]).splitlines()
    assert lines[2].split()[-4:] == ["0.0000", "0.0000", "absent", "0.0%"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert "absent" in table(Scores.from_confusion(np.zeros((1, 1), int)), ["a"]).splitlines()[-1]


def test_json_is_one_valid_line_with_exactly_the_agreed_keys():
    text = to_json("val", 500, Scores.from_confusion(CONFUSION), NAMES)
    assert "\n" not in text and "NaN" not in text
    values = json.loads(text, parse_constant=pytest.fail)
    means = ["miou", "pixel_accuracy", "class_accuracy", "frequency_weighted_iou", "mean_dice"]
    assert list(values) == ["split", "step", *means, "iou", "dice", "precision", "accuracy"]
    assert (values["split"], values["step"]) == ("val", 500)
    assert values["iou"] == {"sky": 4 / 7, "road": 3 / 5, "tram": None, "sign": 0.0}
    assert values["pixel_accuracy"] == 0.7


def test_json_of_nothing_is_null():
    values = json.loads(to_json("val", 0, Scores.from_confusion(np.zeros((2, 2), int)), ["a", "b"]))
    assert values["miou"] is None and values["iou"] == {"a": None, "b": None}


def test_names_must_fit_the_scores():
    scores = Scores.from_confusion(CONFUSION)
    for call in (lambda: table(scores, NAMES[:3]), lambda: to_json("val", 0, scores, NAMES[:3])):
        with pytest.raises(ValueError, match="longer than"):
            call()
    assert finite(np.float32(np.inf)) is None


def _batches():
    """Five 3x5 images in batches of two, the last padded; truth is 3 classes with some void."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 255], (5, 3, 5)).astype(np.int32)
    guesses = rng.integers(0, 3, (5, 3, 5)).astype(np.int32)
    batches = []
    for start in (0, 2, 4):
        index = np.array([i if i < 5 else -1 for i in (start, start + 1)], np.int32)
        label = np.where((index >= 0)[:, None, None], labels[index], 255).astype(np.int32)
        # The padding row repeats an image: only its labels keep it out of the counts.
        batches.append({"image": guesses[index], "label": label, "valid": index >= 0, "index": index})
    return labels, guesses, batches


def _eval_fn(batch):
    prediction = jnp.asarray(batch["image"])
    return confusion_matrix(prediction, jnp.asarray(batch["label"]), 3), prediction


def test_score_batches_counts_each_pixel_once_over_padded_batches():
    labels, guesses, batches = _batches()
    expected = np.zeros((3, 3), int)
    for truth, guess in zip(labels.ravel(), guesses.ravel()):
        if truth != 255:
            expected[truth, guess] += 1
    scores = score_batches(_eval_fn, batches, 3)
    np.testing.assert_array_equal(scores.confusion, expected)
    assert scores.pixel_accuracy == pytest.approx(np.mean(labels[labels != 255] == guesses[labels != 255]))


def test_score_batches_collects_predictions_by_index():
    _, guesses, batches = _batches()
    collector = Collector([4, 1, 9])
    score_batches(_eval_fn, iter(batches), 3, on_batch=collector)
    assert sorted(collector.predictions) == [1, 4]
    for index, prediction in collector.predictions.items():
        np.testing.assert_array_equal(prediction, guesses[index])


def test_score_batches_counts_past_32_bits_and_over_no_batch():
    counts = np.array([[2**31 - 1, 0], [0, 0]], np.int32)
    assert score_batches(lambda _: (counts, None), [{}] * 3, 2).confusion[0, 0] == 3 * (2**31 - 1)
    assert np.isnan(score_batches(_eval_fn, [], 3).miou)


def test_score_batches_dispatches_a_batch_before_it_reads_the_one_before():
    events = []

    class Lazy:
        def __init__(self, name):
            self.name = name

        def __array__(self, dtype=None, copy=None):
            events.append(f"read {self.name}")
            return np.ones((1, 1), np.int32)

    def eval_fn(batch):
        events.append(f"dispatch {batch['n']}")
        return Lazy(batch["n"]), None

    score_batches(eval_fn, [{"n": n} for n in range(3)], 1)
    assert events == ["dispatch 0", "dispatch 1", "read 0", "dispatch 2", "read 1", "read 2"]


def test_score_batches_refuses_counts_of_another_size():
    with pytest.raises(ValueError, match=r"\(3, 3\), expected \(4, 4\)"):
        score_batches(_eval_fn, _batches()[2], 4)


def test_classes_that_are_left_out_of_the_means():
    scores = Scores.from_confusion(CONFUSION).without([0])
    assert scores.miou == pytest.approx((3 / 5 + 0) / 2) and scores.mean_dice == pytest.approx((6 / 8 + 0) / 2)
    assert scores.class_accuracy == pytest.approx((1 + 0) / 2) and scores.pixel_accuracy == pytest.approx(0.7)
    assert table(scores, NAMES).splitlines()[-1] == "mIoU of 2 of 4 classes: tram is absent, sky is left out"
    values = json.loads(to_json("val", 1, scores, NAMES))
    assert values["left_out"] == ["sky"] and values["iou"]["sky"] == pytest.approx(4 / 7)
    assert mean_iou(values["miou"], values["iou"], values["left_out"]).startswith("0.3000 (2 of 4 classes: ")


@pytest.mark.parametrize(
    ("names", "message"), [(("rode",), r"'rode' is no class \(did you mean 'road'\?\)"), (NAMES, "leaves no class")]
)
def test_classes_that_cannot_be_left_out(names, message):
    config = ConfigDict({"eval": {"ignore_classes": names}})
    with pytest.raises(UserError, match=message):
        left_out(config, NAMES)
