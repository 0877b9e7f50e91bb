"""Trackers: what they are sent, over two parts of a run, and what happens where they fail."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from attnseg_jax.errors import UserError
from attnseg_jax.train import trackers
from attnseg_jax.train.hooks import Hook, Hooks, Training, classes_of

STEP = {"loss": 1.0}


class FakeWandB:
    """The part of its library that is used."""

    def __init__(self):
        self.begun, self.sent, self.finished = [], [], 0

    def init(self, **options):
        self.begun.append(options)
        log = lambda values, step: self.sent.append((step, values))  # noqa: E731
        return SimpleNamespace(id=options["id"] or "abc", log=log, finish=self._finish)

    def _finish(self):
        self.finished += 1

    def Image(self, path):
        return f"picture {path.rpartition('/')[2]}"


class FakeMLflow:
    """The part of its library that is used."""

    def __init__(self):
        self.begun, self.params, self.sent, self.pictures, self.ended = [], {}, [], [], 0

    def start_run(self, run_id, run_name):
        self.begun.append((run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    def log_params(self, params):
        self.params = params

    def log_metrics(self, values, step):
        self.sent.append((step, values))

    def log_artifact(self, path, folder):
        self.pictures.append((path.rpartition("/")[2], folder))

    def end_run(self):
        self.ended += 1


@pytest.fixture
def part(make_config, tmp_path, monkeypatch):
    """Runs a part of a run of a tracker: lines of the metrics, each followed by its event."""
    workdir = tmp_path / "run"
    workdir.mkdir()

    def run(name, library, start, lines):
        monkeypatch.setitem(sys.modules, name, library)
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
        config = make_config(hooks=(name,), train__log_every=2)
        training = Training(config, workdir, None, None, start)
        with Hooks(training, classes_of(config)) as hooks, (workdir / "metrics.jsonl").open("a") as file:
            for line in lines:
                file.write(json.dumps(line) + "\n")
                file.flush()
                if "loss" in line:
                    hooks(Hook.after_step, line["step"], STEP)
                else:
                    (workdir / "predictions").mkdir(exist_ok=True)
                    (workdir / f"predictions/step_{line['step']}.png").touch()
                    hooks(Hook.after_evaluation, line["step"], None, None)

    return run


FIRST = [
    {"step": 2, "loss": 1.5, "absent": None},
    {"step": 3, "loss": 1.25},
    {"step": 3, "val_iou/traffic sign (a)": 0.5},
]
SECOND = [{"step": 4, "loss": 1.0}]


def test_wandb(part):
    library = FakeWandB()
    part("wandb", library, 0, FIRST)
    part("wandb", library, 3, SECOND)
    assert [(begin["id"], begin["resume"], begin["name"]) for begin in library.begun] == [
        (None, "allow", "run"),
        ("abc", "allow", "run"),
    ]
    assert library.begun[0]["config"]["model.attention.name"] == "self"
    assert library.sent == [
        (2, {"loss": 1.5}),
        (3, {"loss": 1.25}),
        (3, {"val_iou/traffic sign (a)": 0.5}),
        (3, {"predictions": "picture step_3.png"}),
        (4, {"loss": 1.0}),
    ]
    assert library.finished == 2


def test_mlflow(part):
    library = FakeMLflow()
    part("mlflow", library, 0, FIRST)
    part("mlflow", library, 3, SECOND)
    assert library.begun == [(None, "run"), ("abc", None)]
    assert library.params["train.log_every"] == "2"
    assert library.sent[2] == (3, {"val_iou/traffic sign _a_": 0.5})
    assert library.pictures == [("step_3.png", "predictions")]
    assert library.ended == 2


def test_a_server_that_is_gone_does_not_end_a_training(part, caplog):
    library = FakeMLflow()
    library.log_metrics = lambda *_, **__: 1 / 0
    part("mlflow", library, 0, FIRST)
    assert "mlflow cannot be reached: division by zero; the files of the run have it all" in caplog.text
    assert library.pictures and library.ended == 1


def test_one_that_cannot_begin_ends_it_with_the_reason(part):
    library = FakeMLflow()
    library.start_run = lambda **_: {}["no\nserver"]
    with pytest.raises(UserError, match=r"config\.hooks: 'mlflow' cannot begin a run: 'no\\nserver'"):
        part("mlflow", library, 0, FIRST)


def test_a_missing_package(make_config, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"'wandb' needs a package: pip install 'attnseg_jax\[wandb\]'"):
        classes_of(make_config(hooks=("wandb",)))
    with pytest.raises(UserError, match=r"config\.hooks='wandbs' is unknown: did you mean 'wandb'\?"):
        classes_of(make_config(hooks=("wandbs",)))
