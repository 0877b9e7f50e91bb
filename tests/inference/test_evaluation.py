"""eval.py finds what train.py reported, from the workdir alone."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data.pipeline import evaluation_sample
from attnseg_jax.errors import UserError
from attnseg_jax.evaluation.boundary_iou import count_image
from attnseg_jax.evaluation.counts import ImageCounts
from attnseg_jax.inference import restore
from attnseg_jax.inference.evaluation import evaluate_predictions, evaluate_run
from attnseg_jax.inference.restore import predict, restore_run
from attnseg_jax.plots.segmentation import read_label_map, write_label_map
from attnseg_jax.study import bootstrap
from attnseg_jax.study.score_report import write_report
from attnseg_jax.train import evaluation, loop
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.evaluation import sample_indices
from attnseg_jax.train.parallel import Parallel
from attnseg_jax.train.setup import make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(make_config, tmp_path_factory):
    """(workdir, result, config) of three steps with an evaluation after each; the second is made the best.

    A step only shifts the averaged parameters, which spares compiling a real one.
    """
    workdir = tmp_path_factory.mktemp("evaluated") / "run"
    config = make_config(train__steps=3, train__eval_every=1)
    scores = iter([0.2, 0.9, 0.3])

    class Marked(Checkpoints):
        def add_metrics(self, step, metrics):
            super().add_metrics(step, {"miou": next(scores)})

    def train(self, state, batch):
        rng = np.random.default_rng(int(state.step))
        ema = jax.tree.map(lambda x: jax.device_put(x + rng.normal(0, 0.2, x.shape), x.sharding), state.ema)
        metrics = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1, "confusion": np.eye(5, dtype=int)}
        return state.replace(step=state.step + 1, ema=ema), metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Checkpoints", Marked)
        patch.setattr(Parallel, "train", train)
        return workdir, loop.run(config, workdir), config


@pytest.fixture(scope="module")
def predicted(trained):
    """(records, predictions) of the validation split, one image at a time."""
    restored = restore_run(str(trained[0]))
    records = [restored.source[i] for i in range(len(restored.source))]
    return records, predict(restored, records)


@pytest.fixture(scope="module")
def evaluated(trained):
    return evaluate_run(str(trained[0]), report=True)


def test_the_validation_scores_of_the_run(trained, evaluated):
    result = trained[1]
    assert json.loads(evaluated.json) == result
    assert "\n" not in evaluated.json
    assert result["step"] == 3 and result["split"] == "val"


def test_the_table(trained, evaluated):
    rows = {line[:14].strip(): line[14:].split() for line in evaluated.table.splitlines()}
    result = trained[1]
    for name, iou in result["iou"].items():
        assert rows[name][0] == ("absent" if iou is None else f"{iou:.4f}")
    assert rows["mIoU"] == [f"{result['miou']:.4f}"]
    assert rows["pixel accuracy"] == [f"{result['pixel_accuracy']:.4f}"]


def test_the_picture(trained, evaluated):
    assert evaluated.picture == trained[0] / "eval" / "val_3.png"
    with Image.open(evaluated.picture) as image, Image.open(trained[0] / "predictions/step_3.png") as other:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(other))


def test_a_picture_that_cannot_be_written(trained, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate_split", None)
    with pytest.raises(UserError, match=r"--picture=/dev/null/p\.png cannot be used"):
        evaluate_run(str(trained[0]), picture="/dev/null/p.png")
    with pytest.raises(UserError, match=r"--picture=.* is a folder: name a file"):
        evaluate_run(str(trained[0]), picture=str(trained[0]))


def test_the_scores_are_those_of_the_averaged_parameters(trained, evaluated):
    """An oracle: one image at a time, in NumPy, with the average that the config asks for."""
    workdir, result, config = trained
    run = make_run(config, 5)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        _, state = checkpoints.restore_latest(run.abstract)
    confusion = np.zeros((5, 5), int)
    predict = jax.jit(
        lambda image: run.model.apply({"params": state.ema, "batch_stats": state.batch_stats}, image).logits
    )
    root = Path(config.data.dir)
    for path in sorted((root / "images/val").iterdir()):
        image = (np.asarray(Image.open(path)) - np.array(config.data.mean)) / np.array(config.data.std)
        truth = np.asarray(Image.open(root / "masks/val" / path.name))
        prediction = np.asarray(predict(image[None].astype(np.float32)))[0].argmax(-1)
        np.add.at(confusion, (truth[truth < 255], prediction[truth < 255]), 1)
    hits = np.diagonal(confusion)
    assert confusion.sum() == 5 * 24 * 30
    assert result["pixel_accuracy"] == pytest.approx(hits.sum() / confusion.sum(), abs=2e-4)
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    np.testing.assert_allclose(list(result["iou"].values()), iou, atol=2e-3)


@pytest.mark.thorough
def test_best_and_numbered_checkpoints_and_another_split(trained, evaluated, monkeypatch):
    """One compilation serves all: the run's parts are handed from call to call."""
    workdir, result, config = trained
    run = make_run(config, 5, training=False)
    monkeypatch.setattr(restore, "make_run", lambda *_, **__: run)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    at_two = next(x for x in lines if x["step"] == 2 and "val_miou" in x)
    best = evaluate_run(str(workdir), checkpoint="best")
    assert json.loads(best.json)["step"] == 2 and json.loads(best.json)["miou"] == at_two["val_miou"]
    assert evaluate_run(str(workdir), checkpoint="2").json == best.json
    assert best.picture.name == "val_2.png"

    train = json.loads(evaluate_run(str(workdir), split="train").json)
    assert train["split"] == "train" and train["step"] == 3 and train["miou"] != result["miou"]

    picture = workdir.parent / "new" / "mine.png"
    assert evaluate_run(str(workdir), picture=str(picture)).picture == picture
    assert picture.exists()

    for bad, message in (
        ({"checkpoint": "7"}, r"no checkpoint of step 7; there are \[2, 3\]"),
        ({"checkpoint": "bset"}, r"--checkpoint=bset must be latest, best or a step \(\[2, 3\]\)"),
        ({"checkpoint": "-1"}, r"--checkpoint=-1 must be"),
        ({"split": "tset"}, r"no split 'tset' in it; expected .*images/tset"),
        ({"data_dir": "nowhere"}, r"config\.data\.dir=nowhere: there is no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_run(str(workdir), **bad)

    # The data moved, and what `val` means is the run's own business.
    moved = shutil.copytree(workdir, workdir.parent / "moved")
    values = json.loads((moved / "config.json").read_text())
    values["data"] |= {"dir": "gone", "eval_split": "train"}
    (moved / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config\.data\.dir=gone"):
        evaluate_run(str(moved))
    found = json.loads(evaluate_run(str(moved), data_dir=config.data.dir).json)
    assert found == train
    assert json.loads((moved / "config.json").read_text()) == values

    shutil.rmtree(moved / "checkpoints")
    with pytest.raises(UserError, match=r"moved/checkpoints: no checkpoints here; train first"):
        evaluate_run(str(moved), data_dir=config.data.dir)
    (moved / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"moved/checkpoints holds no checkpoint: train first"):
        evaluate_run(str(moved), data_dir=config.data.dir)


def test_an_evaluation_changes_nothing_but_its_own_folder(trained, evaluated):
    workdir = trained[0]
    names = {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "result.txt",
        "data.json",
        "curves.png",
        "tensorboard",
        "predictions",
        "checkpoints",
        ".lock",
    }
    assert {path.name for path in workdir.iterdir()} == names | {"counts.json", "maps", "timing.jsonl", "eval"}


@pytest.mark.parametrize("workdir, message", [(None, "--workdir is missing"), ("nowhere", "nowhere/config.json does")])
def test_a_workdir_that_is_none(workdir, message):
    with pytest.raises(UserError, match=message):
        evaluate_run(workdir)


@pytest.mark.thorough
def test_on_another_number_of_devices(trained):
    """eval.py itself, on one device where the run had eight; nothing but the result on standard output."""
    workdir, result, _ = trained
    run = subprocess.run(
        [sys.executable, ROOT / "eval.py", f"--workdir={workdir}", f"--picture={workdir / 'eval/one.png'}"],
        env=dict(os.environ, XLA_FLAGS="", JAX_PLATFORMS="cpu"), capture_output=True, text=True, cwd=workdir.parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *table, last = run.stdout.splitlines()
    found = json.loads(last)
    assert table[0].split() == ["class", "IoU", "Dice", "precision", "accuracy", "pixels", "boundary", "boundary", "F"]
    for name in ("iou", "dice", "precision", "accuracy", "boundary_iou", "boundary_f"):
        assert found.pop(name) == pytest.approx(result[name], abs=2e-3)
    assert found == {key: pytest.approx(result[key], abs=2e-3) for key in found} | {"split": "val"}


def test_predictions_of_records_give_the_scores(trained, predicted):
    """What `cli.sheet` draws is what is scored, one image at a time."""
    result = trained[1]
    confusion = np.zeros((5, 5), int)
    for record, prediction in zip(*predicted, strict=True):
        truth = record["label"]
        assert prediction.shape == truth.shape
        np.add.at(confusion, (truth[truth < 255], prediction[truth < 255]), 1)
    assert np.trace(confusion) / confusion.sum() == pytest.approx(result["pixel_accuracy"])


def test_what_the_last_evaluation_leaves(trained, predicted):
    """The counts of every image and the predictions of those drawn, as one image after another gives them."""
    workdir, result, config = trained
    records, predictions = predicted
    counts = ImageCounts.decode(json.loads((workdir / "counts.json").read_text()))
    for i, (record, prediction) in enumerate(zip(records, predictions, strict=True)):
        region, near = count_image(record["label"], prediction, 5)
        np.testing.assert_array_equal(counts.everywhere[i], region)
        np.testing.assert_array_equal(counts.near_contours[i], near)
    np.testing.assert_allclose(counts.iou, list(result["iou"].values()))
    assert result["boundary_miou"] == pytest.approx(np.nanmean(counts.boundary_iou))
    drawn = sample_indices(len(records), config.eval.samples)
    assert sorted(int(path.stem) for path in (workdir / "maps").iterdir()) == drawn
    for index in drawn:
        np.testing.assert_array_equal(read_label_map(workdir / "maps" / f"{index}.png"), predictions[index])


def test_masks_on_disk_score_as_the_run_that_made_them(trained, predicted, evaluated, tmp_path):
    """The same images drawn, too; without a model nothing is known of its confidence."""
    for record, prediction in zip(*predicted, strict=True):
        write_label_map(prediction, evaluated.source.info.palette, tmp_path / "masks/mask" / f"{record['id']}.png")
    found = evaluate_predictions(str(tmp_path / "masks"), trained[2], report=True)
    expected = json.loads(evaluated.json)
    del expected["calibration_error"]
    assert json.loads(found.json) == expected | {"step": None}
    assert {path.name for path in found.picture.parent.iterdir()} == {"val.png", "val.csv", "val_confusion.png"}
    csv_text = found.picture.with_suffix(".csv").read_text()
    assert csv_text == evaluated.picture.with_suffix(".csv").read_text()
    _check_a_class_left_out(str(tmp_path / "masks"), trained[2], expected["iou"], csv_text)

    np.testing.assert_array_equal(found.mistakes.kinds, evaluated.mistakes.kinds)
    write_report(found, tmp_path / "report", None)
    page = (tmp_path / "report/index.html").read_text()
    assert "<h1>masks, val</h1>" in page and "confidence" not in page and "<script" not in page


@pytest.mark.parametrize("parallel", ["pmap", pytest.param("mesh", marks=pytest.mark.thorough)])
def test_images_of_a_shorter_side_are_scored_at_the_size_of_their_masks(parallel, trained, predicted, tmp_path):
    """Every pixel of the split counts, with the class that the model, on the smaller image, gives at its place."""
    changes = {"data.shorter_side": 19, "parallel": parallel}
    found = evaluate_run(str(trained[0]), picture=str(tmp_path / "val.png"), changes=changes, report=True)
    records, restored = predicted[0], restore_run(str(trained[0]), changes=changes)
    confusion = found.evaluation.scores.confusion
    np.testing.assert_array_equal(confusion, _confusion(records, predict(restored, records)))
    assert (confusion != _confusion(*predicted)).any()
    # What a report shows of an image covers all of it.
    sure, attention, covered = restore.make_restored_look(restored)(records[0])
    h, w = records[0]["label"].shape
    assert sure.shape == (h, w) and attention and covered[0] >= h and covered[1] >= w


def _confusion(records, masks):
    confusion = np.zeros((5, 5), int)
    for record, mask in zip(records, masks, strict=True):
        known = record["label"] != 255
        np.add.at(confusion, (record["label"][known], mask[known]), 1)
    return confusion


def _check_a_class_left_out(folder, config, iou, csv_text):
    first, *others = iou
    config = config.copy_and_resolve_references().unlock()
    config.eval.ignore_classes = (first,)
    found = evaluate_predictions(folder, config)
    values, known = json.loads(found.json), [iou[name] for name in others if iou[name] is not None]
    assert values["iou"] == iou and values["miou"] == pytest.approx(np.mean(known))
    assert f"{first} is left out" in found.table.splitlines()[-1]
    lines = found.picture.with_suffix(".csv").read_text().splitlines()
    for line, before in zip(csv.reader(lines[1:]), csv.reader(csv_text.splitlines()[1:]), strict=True):
        assert line[2:] == before[2:]
        values = [float(cell) for cell in line[4:] if cell]
        assert float(line[1] or "nan") == pytest.approx(np.mean(values) if values else np.nan, abs=1e-6, nan_ok=True)


def test_the_scores_of_each_image(trained, predicted, evaluated):
    header, *lines = csv.reader(evaluated.picture.with_suffix(".csv").read_text().splitlines())
    assert header == ["image", "miou", "pixel_accuracy", *evaluated.source.info.class_names]
    for line, record, prediction in zip(lines, *predicted, strict=True):
        truth = record["label"]
        known = truth != 255
        assert line[0] == record["id"]
        assert float(line[2]) == pytest.approx((truth == prediction)[known].mean(), abs=1e-6)
        ious = []
        for k, cell in enumerate(line[3:]):
            union = ((truth == k) | (prediction == k))[known].sum()
            ious.append(((truth == k) & (prediction == k))[known].sum() / union if union else np.nan)
            assert cell == ("" if np.isnan(ious[-1]) else f"{ious[-1]:.6f}")
        assert float(line[1]) == pytest.approx(np.nanmean(ious), abs=1e-6)


def test_the_command_of_a_report(trained, call):
    """Into the folder of the run; of masks into another; of nothing none."""
    workdir, result, _ = trained
    code, out, err = call("attnseg_jax/cli/report.py", f"--workdir={workdir}")
    assert code == 0 and json.loads(out.splitlines()[-1])["miou"] == result["miou"]
    assert "</html>" in (workdir / "report/index.html").read_text()
    assert json.loads((workdir / "report/scores.json").read_text())["step"] == 3
    shutil.rmtree(workdir / "report")
    for argv, words in (
        ([f"--compare={workdir}"], "--compare is for attnseg-eval"),
        (["--workdir=nowhere"], "nowhere"),
        ([], "--workdir"),
    ):
        code, out, err = call("attnseg_jax/cli/report.py", *argv)
        assert code == 2 and words in err.splitlines()[-1] and not Path("report/index.html").exists()


def test_the_report_stands_alone(trained, evaluated, tmp_path):
    workdir, result, _ = trained
    write_report(evaluated, tmp_path / "report", workdir)
    page = (tmp_path / "report/index.html").read_text()
    assert json.loads((tmp_path / "report/scores.json").read_text()) == result
    counts = evaluated.evaluation.scores.images.everywhere
    low, high = bootstrap.interval(counts)
    assert low <= result["miou"] <= high
    assert f"<strong>{result['miou']:.4f}</strong>" in page and f"{low:.4f} and {high:.4f}" in page
    for name, value in result["iou"].items():
        assert name in page and ("absent" if value is None else f"{value:.4f}") in page
    found = evaluated.evaluation
    drawn = {evaluated.source[i]["id"] for i in (*found.worst, *found.best, *found.samples)}
    assert drawn == set(re.findall(r"<h3>(.*?), .*?: mIoU", page)) and len(drawn) > len(found.worst)
    # All wrong pixels are of a kind, true and predicted class as the confusion has them.
    confusion = found.scores.confusion
    np.testing.assert_array_equal(
        evaluated.mistakes.kinds.sum(0), confusion - np.diag(np.diagonal(confusion)), strict=True
    )
    # Of each image truth, prediction and the attention; the curves, the confusion, the calibration.
    assert page.count("data:image/png;base64,") == 3 * len(drawn) + 3
    assert page.count('"name":"self0"') == page.count("<figcaption>confidence") == len(drawn)
    assert not re.search(r"https?://|<script src|<link", page)
    assert re.search(r"commit</th><td><code>([0-9a-f]{40}|none)", page)


def test_the_validation_loss_and_the_calibration(trained):
    """From the logits of one image after another, over the valid pixels of all."""
    workdir, result, _ = trained
    restored = restore_run(str(workdir))
    total, pixels = 0.0, 0
    confidence, right = [], []
    for record in (restored.source[i] for i in range(len(restored.source))):
        sample = evaluation_sample(record, restored.config.data, restored.model.size_multiple)
        logits = np.asarray(restored.model.apply(restored.variables, sample["image"][None], train=False).logits[0])
        known = sample["label"] != 255
        chosen = np.take_along_axis(logits, np.where(known, sample["label"], 0)[..., None], -1)[..., 0]
        total += (np.log(np.exp(logits.astype(np.float64)).sum(-1)) - chosen)[known].sum()
        pixels += known.sum()
        probabilities = np.exp(logits.astype(np.float64))
        confidence.append((probabilities.max(-1) / probabilities.sum(-1))[known])
        right.append((logits.argmax(-1) == sample["label"])[known])
    confidence, right = np.concatenate(confidence), np.concatenate(right)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(confidence[bins == i].mean() - right[bins == i].mean()) * (bins == i).mean() for i in set(bins)]
    assert result["calibration_error"] == pytest.approx(sum(gaps), abs=1e-4)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    measured = {x["step"]: x["val_cross_entropy"] for x in lines if "val_cross_entropy" in x}
    assert measured[result["step"]] == pytest.approx(total / pixels, rel=1e-5)


def test_only_a_training_warns_of_its_warmup(trained, caplog):
    workdir, _, config = trained
    restore_run(str(workdir))
    assert "warmup" not in caplog.text
    make_run(config, 5)
    assert "config.optimizer.warmup_steps=2 is more than half of the run: 1 are taken" in caplog.text


def test_the_class_table_at_the_end(trained):
    """Last and best checkpoint side by side, every class."""
    workdir, result, _ = trained
    lines = (workdir / "result.txt").read_text().splitlines()
    metrics = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    second = next(values for values in metrics if values["step"] == 2 and "val_miou" in values)
    rows = {line[:15].strip(): line[15:].split() for line in lines[1:]}
    for name, iou in result["iou"].items():
        assert rows[name][:2] == [f"{iou:.4f}", f"{second[f'val_iou/{name}']:.4f}"]
    assert rows["mIoU"] == [f"{result['miou']:.4f}", f"{second['val_miou']:.4f}"]
    assert lines[0].split()[:4] == ["class", "IoU", "step", "2"]
    assert lines[-1] == "step 2 is the best checkpoint: eval.py --checkpoint=best"
    missed = [name for name, iou in result["iou"].items() if iou == 0]
    assert (f"IoU 0: {', '.join(missed)}" in lines) == bool(missed)


def test_what_is_timed(trained):
    lines = [json.loads(line) for line in (trained[0] / "timing.jsonl").read_text().splitlines()]
    # The first report has the compilation; all five images are one batch, which has it too.
    assert [x["step"] for x in lines if "step_seconds" in x] == [2, 3]
    assert all(0 <= x["data_wait"] <= 1 for x in lines if "step_seconds" in x)
    memory = [x["peak_bytes"] for x in lines if "peak_bytes" in x]
    assert len(memory) == 3 and memory == sorted(memory) and 2**26 < memory[0] < 2**40
    assert all(x.get("image_seconds") is None for x in lines)
