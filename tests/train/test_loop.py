"""A run from its first file to its result, stopped, killed, continued; with tiny images."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pair import listening_to_interrupts
from PIL import Image
from workdirs import assert_same_run, final_state, lines

from attnseg_jax.errors import Stopped, UserError
from attnseg_jax.files import locked_workdir
from attnseg_jax.train import config as configs
from attnseg_jax.train import loop
from attnseg_jax.train.built_in_hooks import Meter, Pictures
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.parallel import Parallel

ROOT = Path(__file__).parents[2]
STEPS, EVAL_EVERY, LOG_EVERY = 18, 7, 4


pytestmark = pytest.mark.usefixtures("shared_steps")


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(train__steps=STEPS, train__eval_every=EVAL_EVERY, train__log_every=LOG_EVERY, train__keep=3)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """(workdir, result) of a whole run; tests that change it work on a copy."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, loop.run(config, workdir)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


@pytest.fixture
def killed(copy):
    """The run as if it was killed after its checkpoint of step 14, before the next line of metrics."""
    shutil.rmtree(copy / "checkpoints/18")
    (copy / "result.json").unlink()
    (copy / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines(copy) if x["step"] <= 14))
    return copy


def forbid(monkeypatch, name):
    def fail(*_, **__):
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(loop, name, fail)


def at_step(monkeypatch, step, action):
    """Calls `action` on the batch of that step before it is used."""
    train_batches = loop.train_batches

    def batches(*args, start_step=0, **options):
        for index, batch in enumerate(train_batches(*args, start_step=start_step, **options), start_step + 1):
            if index == step:
                action(batch)
            yield batch

    monkeypatch.setattr(loop, "train_batches", batches)


def test_what_a_run_leaves(config, finished):
    workdir, result = finished
    assert json.loads((workdir / "result.json").read_text()) == result
    assert (workdir / "config.json").read_text() == configs.to_json(config)
    assert result["step"] == STEPS and result["split"] == "val"
    assert list(result["iou"]) == list(config.data.classes)
    assert sorted(p.name for p in (workdir / "predictions").iterdir()) == ["step_14.png", "step_18.png", "step_7.png"]
    for picture in [workdir / "curves.png", *(workdir / "predictions").iterdir()]:
        with Image.open(picture) as image:
            assert np.ptp(np.asarray(image.convert("L")).astype(int)) > 100
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_step() == STEPS
        best = checkpoints.best_step()
        assert checkpoints.metrics(best)["miou"] == max(x["val_miou"] for x in lines(workdir) if "val_miou" in x)
    assert list((workdir / "tensorboard").iterdir())
    # Nothing half-written remains.
    assert not [p for p in workdir.rglob("*") if "tmp" in p.name]


def test_pictures_of_the_best_evaluations_and_the_newest_are_kept(tmp_path):
    pictures = object.__new__(Pictures)
    pictures.training = SimpleNamespace(workdir=tmp_path)
    scores = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6, 0.5, 0.05]
    (tmp_path / "predictions").mkdir()
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step, score in enumerate(scores):
            file.write(json.dumps({"step": step, "val_miou": score}) + "\n")
            (tmp_path / f"predictions/step_{step}.png").write_bytes(b"")
    (tmp_path / "predictions/mine.png").write_bytes(b"")
    pictures._remove_pictures(9)
    left = {path.stem for path in (tmp_path / "predictions").iterdir()}
    assert left == {"mine", "step_9", "step_1", "step_3", "step_5", "step_7", "step_8"}


def test_metrics_of_a_run(finished):
    workdir, result = finished
    found = lines(workdir)
    training, validation = [x for x in found if "loss" in x], [x for x in found if "val_miou" in x]
    assert [x["step"] for x in training] == [4, 7, 8, 12, 14, 16, 18]
    assert [x["step"] for x in validation] == [7, 14, 18]
    for x in training:
        assert {"miou", "pixel_accuracy", "learning_rate", "grad_norm"} <= x.keys()
    assert training[-1]["loss"] < 0.8 * training[0]["loss"]
    assert validation[-1]["val_miou"] == result["miou"]
    assert validation[-1]["val_iou/red"] == result["iou"]["red"]
    # Warm-up of 2 steps, then a falling rate; the one after the last step would be 0.
    rates = [x["learning_rate"] for x in training]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(0.05 * (1 / 16) ** 0.9)


def test_a_finished_run_gives_its_result_again(config, finished, monkeypatch):
    workdir, result = finished
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in workdir.rglob("*")}
    for name in ("load_source", "make_run", "Checkpoints", "Hooks"):
        forbid(monkeypatch, name)
    assert loop.run(config, workdir) == result
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in workdir.rglob("*")} == before


@pytest.mark.parametrize("mode", ["pmap", pytest.param("mesh", marks=pytest.mark.slow)])
def test_a_broken_run_continues_to_the_same_end(mode, make_config, config, finished, tmp_path, monkeypatch):
    """Dropout, accumulation and an average of the parameters are on; eight devices."""
    if mode == "pmap":
        whole, breaks_at, resumes_from = finished[0], 16, 14
    else:
        config, whole, breaks_at, resumes_from = make_config(parallel="mesh"), tmp_path / "whole", 5, 3
        loop.run(config, whole)

    class Broken(Exception):
        pass

    def fail(_):
        raise Broken

    workdir = tmp_path / "broken"
    with monkeypatch.context() as patch:
        at_step(patch, breaks_at, fail)
        with pytest.raises(Broken):
            loop.run(config, workdir)
    assert not (workdir / "result.json").exists()
    trained, train = [], Parallel.train
    monkeypatch.setattr(Parallel, "train", lambda *args: trained.append(1) or train(*args))
    loop.run(config, workdir)
    assert len(trained) == config.train.steps - resumes_from
    assert_same_run(config, whole, workdir)


def test_sigterm_saves_the_step_and_stops(config, finished, killed, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        # While step 16 is prepared: it is a multiple of log_every and no evaluation.
        at_step(patch, 16, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped, match="step 16 is saved, the same command continues"):
            loop.run(config, killed)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert final_state(config, killed)[0] == 16
    assert not (killed / "result.json").exists()
    assert [x["step"] for x in lines(killed) if "loss" in x] == [4, 7, 8, 12, 14, 16]
    loop.run(config, killed)
    assert_same_run(config, finished[0], killed)


@pytest.mark.thorough
def test_a_signal_in_the_last_step_or_evaluation_leaves_only_that_to_be_done(config, finished, killed, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, STEPS, lambda _: os.kill(os.getpid(), signal.SIGINT))
        with listening_to_interrupts(), pytest.raises(Stopped, match=r"SIGINT.*step 18 is saved") as caught:
            loop.run(config, killed)
    assert caught.value.signal == signal.SIGINT
    batches = []
    with monkeypatch.context() as patch:
        patch.setattr(Parallel, "train", None)
        evaluate = Parallel.evaluate

        def interrupted(*arguments):
            batches.append(os.kill(os.getpid(), signal.SIGTERM))
            return evaluate(*arguments)

        patch.setattr(Parallel, "evaluate", interrupted)
        with pytest.raises(Stopped, match=r"SIGTERM.*step 18 is saved"):
            loop.run(make_smaller_batches(config), killed)
    assert len(batches) == 2
    monkeypatch.setattr(Parallel, "train", None)
    assert loop.run(config, killed) == finished[1]
    assert_same_run(config, finished[0], killed)


def test_a_second_ctrl_c_says_what_is_kept(config, killed, monkeypatch):
    def twice(_):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 16, twice)
    with listening_to_interrupts(), pytest.raises(Stopped, match=r"at once.*step 14 is kept") as caught:
        loop.run(config, killed)
    assert caught.value.signal == signal.SIGINT


def make_smaller_batches(config):
    """Of the evaluation, so that there are several; that changes no result."""
    config = config.copy_and_resolve_references()
    config.eval.batch_size = 1
    return config


def test_a_missing_result_is_found_again(config, finished, copy, monkeypatch):
    """As if the run was killed after its last checkpoint and before its result."""
    (copy / "result.json").unlink()
    (copy / "curves.png").unlink()
    monkeypatch.setattr(Parallel, "train", None)
    assert loop.run(config, copy) == finished[1]
    assert (copy / "curves.png").exists()
    assert_same_run(config, finished[0], copy)


def test_fewer_steps_than_there_are_evaluate_what_is_there(make_config, copy, finished, monkeypatch, caplog):
    shorter = make_config(train__steps=10, train__eval_every=EVAL_EVERY, train__log_every=LOG_EVERY)
    monkeypatch.setattr(Parallel, "train", None)
    assert loop.run(shorter, copy) == finished[1]
    assert "config.train.steps: 18 -> 10" in caplog.text


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("optimizer__learning_rate", 0.01, "config.optimizer.learning_rate: 0.05 -> 0.01"),
        ("loss__name", "dice", "config.loss.name: cross_entropy -> dice"),
        ("data__ids", (1, 0, 2, 3, 4), "config.data.ids: () -> (1, 0, 2, 3, 4)"),
    ],
)
def test_a_finished_workdir_is_not_trained_otherwise(key, value, said, make_config, config, copy, finished):
    kept = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    other = {"train__steps": STEPS, "train__eval_every": EVAL_EVERY, "train__log_every": LOG_EVERY, key: value}
    with pytest.raises(UserError, match=f"has trained {STEPS} steps already") as refused:
        loop.run(make_config(**other), copy)
    assert f"{said}: another --workdir starts anew, config.train.steps above {STEPS} goes on" in str(refused.value)
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == kept
    assert loop.run(config, copy) == finished[1]


def test_an_old_result_does_not_stand_for_a_changed_config(make_config, config, copy, monkeypatch, caplog):
    longer = make_config(train__steps=STEPS + 20, train__eval_every=EVAL_EVERY, train__log_every=LOG_EVERY)

    def fail(_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        at_step(patch, STEPS + 1, fail)
        with pytest.raises(InterruptedError):
            loop.run(longer, copy)
    assert not (copy / "result.json").exists()
    # (1 - (18 - 2) / (38 - 2))^0.9 of 0.05, where the schedule of 18 steps has come to its end.
    assert "jumps at step 18: 0 by the schedule of 18 steps before, 0.0295 by that of 38 steps now" in caplog.text
    assert json.loads((copy / "config.json").read_text())["train"]["steps"] == STEPS + 20


def test_a_loss_that_is_not_finite_stops(config, finished, killed, monkeypatch):
    def poison(batch):
        batch["image"][3, 5, 7] = np.nan

    at_step(monkeypatch, 17, poison)
    with pytest.raises(
        UserError, match=r"loss nan .* step 17: .* of step 14 is kept, .*goes back to it; .*learning_rate"
    ):
        loop.run(config, killed)
    assert configs.load(killed).train.steps == STEPS
    assert lines(killed) == [x for x in lines(finished[0]) if x["step"] <= 16]
    assert not (killed / "result.json").exists()
    step, state = final_state(config, killed)
    assert step == 14 and all(np.isfinite(x).all() for x in state.values())


@pytest.mark.thorough
def test_a_checkpoint_whose_next_loss_is_not_finite_is_left_behind(config, finished, killed, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 15, lambda batch: batch["image"].fill(np.nan))
        with pytest.raises(UserError, match=r"at step 15: .* of step 7 is kept, and the same command goes back to it"):
            loop.run(config, killed)
    loop.run(config, killed)
    assert_same_run(config, finished[0], killed)


def test_a_loss_that_is_not_finite_before_any_checkpoint(config, tmp_path, monkeypatch):
    at_step(monkeypatch, 2, lambda batch: batch["image"].fill(np.inf))
    with pytest.raises(UserError, match=r"at step 2: training stops, there is no checkpoint yet"):
        loop.run(config, tmp_path / "nan")


def test_another_architecture_in_the_workdir(make_config, copy):
    before = (copy / "config.json").read_bytes(), (copy / "metrics.jsonl").read_bytes()
    other = make_config(**{"train__steps": STEPS, "model__attention__name": "none"})
    with pytest.raises(UserError, match=r"another architecture.*only in the checkpoint: .*attention") as caught:
        loop.run(other, copy)
    assert str(copy / "checkpoints" / str(STEPS)) in str(caught.value)
    assert (before[0], before[1]) == ((copy / "config.json").read_bytes(), (copy / "metrics.jsonl").read_bytes())


def test_a_workdir_that_is_a_file(make_config, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"--workdir=.*file cannot be used"):
        loop.run(make_config(parallel="mesh"), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_workdir_in_use(finished, make_config, tmp_path):
    config = make_config(train__steps=STEPS, train__eval_every=EVAL_EVERY, train__log_every=LOG_EVERY, seed=1)
    with locked_workdir(tmp_path, "this test"), pytest.raises(UserError, match="is in use by another training: wait"):
        loop.run(config, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_meter():
    meter = Meter()
    meter.add({"loss": 3.0, "learning_rate": 0.5, "confusion": np.array([[1, 1], [0, 2]])})
    meter.add({"loss": 1.0, "learning_rate": 0.25, "confusion": np.array([[3, 0], [1, 0]])})
    # Together [[4, 1], [1, 2]]: IoU 4/6 and 2/4.
    assert meter.result() == {"loss": 2.0, "learning_rate": 0.25, "miou": pytest.approx(7 / 12), "pixel_accuracy": 0.75}
    meter = Meter()
    meter.add({"loss": 5.0, "learning_rate": 0.1, "confusion": np.array([[1, 0], [0, 0]])})
    assert meter.result()["loss"] == 5.0 and meter.result()["pixel_accuracy"] == 1.0


def test_a_run_sees_crops_that_its_model_is_right_for(make_config, tmp_path, monkeypatch):
    """Unless its images are not padded in evaluation either, as a run of before that goes on."""

    class Seen(Exception):
        pass

    def batches(*_, multiple, **__):
        raise Seen(multiple)

    monkeypatch.setattr(loop, "train_batches", batches)
    for size_multiple, wanted in {0: 4, 1: 1}.items():
        changes = {"data__crop": (26, 31), "eval__size_multiple": size_multiple}
        with pytest.raises(Seen) as seen:
            loop.run(make_config(**changes), tmp_path / str(size_multiple))
        assert seen.value.args == (wanted,)
