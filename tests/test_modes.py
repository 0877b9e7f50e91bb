"""Runs with one sigmoid output and with classes that may overlap: trained, scored, predicted, reported."""

import numpy as np
import pytest
from PIL import Image

from attnseg_jax import Predictor
from attnseg_jax.errors import UserError
from attnseg_jax.inference.evaluation import evaluate_predictions, evaluate_run
from attnseg_jax.inference.export.exporting import export
from attnseg_jax.study.score_report import write_report
from attnseg_jax.train import loop
from attnseg_jax.train.setup import make_run

NAMES = ("red", "green", "blue")
COUNTS = {"train": 8, "val": 3}


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Pictures of 24 x 32 pixels with a square in each channel, and a mask of 0 and 255 of each."""
    root, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for split, count in COUNTS.items():
        (root / "img" / split).mkdir(parents=True)
        (root / "lab" / split).mkdir(parents=True)
        for i in range(count):
            label = np.zeros((24, 32, 3), bool)
            for k in range(3):
                y, x = rng.integers(0, 12), rng.integers(0, 18)
                label[y : y + 12, x : x + 14, k] = True
            image = (60 + 130 * label + rng.normal(0, 8, label.shape)).clip(0, 255)
            Image.fromarray(image.astype(np.uint8)).save(root / "img" / split / f"s{i}.png")
            for k, name in enumerate(NAMES):
                Image.fromarray(np.uint8(255 * label[..., k])).save(root / "lab" / split / f"s{i}_{name}.png")
    return root


@pytest.fixture
def config(make_config, squares):
    def make(**changes):
        given = {
            **{"data__dir": str(squares), "data__mode": "multilabel", "data__classes": NAMES},
            **{"data__ids": ((0, 0), (255, 1)), "data__images": "img/{split}/{stem}.png"},
            **{"data__masks": "lab/{split}/{stem}_{class}.png", "model__attention__name": "none"},
            **{"train__batch_size": 8, "train__accumulate": 1, "train__steps": 4, "train__eval_every": 4},
            **{"optimizer__ema_decay": 0.0, "loss__name": "cross_entropy+dice"},
        }
        return make_config(**given | changes)

    return make


BINARY = {"data__mode": "binary", "data__classes": ("red",), "data__masks": "lab/{split}/{stem}_red.png"}


@pytest.mark.thorough
@pytest.mark.parametrize("changes", [{}, BINARY], ids=["multilabel", "binary"])
def test_a_run_from_pictures_to_masks(config, squares, tmp_path, changes):
    """Its masks on disk score as it does; the sweep foretells the scores of another threshold."""
    made, workdir = config(**changes), tmp_path / "run"
    result = loop.run(made, workdir)
    found = evaluate_run(str(workdir), report=True, changes={"eval.threshold": 0.4, "eval.batch_size": 2})
    scores = found.evaluation.scores
    for k, sweep in scores.sweeps.items():
        assert sweep.iou[39] == pytest.approx(scores.iou[k], nan_ok=True)
        name = found.source.info.class_names[k]
        assert sweep.iou[49] == pytest.approx(result["iou"][name] or 0, abs=1e-3)
        assert result["best_threshold_iou"][name] >= result["iou"][name]
    write_report(found, tmp_path / "report", workdir)
    page = (tmp_path / "report" / "index.html").read_text()
    assert (
        "<h2>Thresholds</h2>" in page and "<h2>Kinds of errors</h2>" in page and ("confused" in page) == bool(changes)
    )
    right = [scores.confusion[k].trace() for k in range(3)] if not changes else scores.confusion.trace()
    assert found.mistakes.kinds.sum() == scores.confusion.sum() - np.sum(right)

    predictor = Predictor(workdir, changes={"eval.threshold": 0.4})
    for one in predictor(str(squares / "img" / "val"), extras=("probabilities", "entropy")):
        paths = one.save(tmp_path / "out", ("mask", "overlay", "probabilities", "entropy", "polygons"))
        assert one.mask.dtype == np.uint8 and one.mask.max() <= 1 and one.probabilities.shape[:2] == (24, 32)
        assert one.mask.ndim == 3 - bool(changes) and len(paths) == 4 + (1 if changes else 3)
    masks = evaluate_predictions(str(tmp_path / "out"), made)
    np.testing.assert_array_equal(masks.evaluation.scores.confusion, scores.confusion)
    if not changes:
        with Image.open(tmp_path / "out" / "mask" / "green" / "s1.png") as mask:
            assert mask.mode == "P" and mask.size == (32, 24)
        with pytest.raises(UserError, match=r"config.data.mode='multilabel', .* are not exported"):
            export(str(workdir), "stablehlo", output=tmp_path / "exported")


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"model__decoder__name": "masked_attention"},
            "decoder.name='masked_attention' gives pixels one of the classes",
        ),
        (
            {"model__decoder__name": "mask_transformer"},
            "decoder.name='mask_transformer' gives pixels one of the classes",
        ),
        ({"loss__name": "mask_classification"}, "loss.name='mask_classification' gives pixels one of the classes"),
        ({**BINARY, "loss__dice__classes": (1,)}, r"loss.dice.classes=\(1,\) must be \(\): .* one output alone"),
        ({"data__mode": "multiclass", "eval__threshold": 0.3}, "threshold=0.3 is of two classes, or of"),
    ],
)
def test_what_cannot_be_meant(config, changes, message):
    with pytest.raises(UserError, match=message) as error:
        make_run(config(**changes), 2 if changes.get("data__mode") == "binary" else 3)
    assert "\n" not in str(error.value)


def test_weights_of_two_classes_are_one_weight_of_the_second(config):
    weights = np.array([0.5, 2.0], np.float32)
    step = make_run(config(**BINARY), 2, lambda: weights).step
    assert step.keywords["objective"].class_weights.tolist() == [4.0]
    with pytest.raises(UserError, match=r"gives the classes the weights 0, 2: .* both must be above 0"):
        make_run(config(**BINARY), 2, lambda: np.array([0.0, 2.0]))
