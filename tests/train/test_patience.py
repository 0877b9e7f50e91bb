"""`config.train.patience`: a training ends when its score does not rise any more, and the same command knows it."""

import json
import os
import signal

import numpy as np
import pytest

from attnseg_jax.errors import Stopped
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.train import loop, steps
from attnseg_jax.train.evaluation import Evaluation
from attnseg_jax.train.parallel import Parallel

pytestmark = pytest.mark.usefixtures("shared_steps")

# Of one evaluation after another; the second is the best, and equal is not higher.
RIGHT = [10, 40, 30, 40, 20, 90, 90, 90]


@pytest.fixture
def run(monkeypatch, make_config):
    """Runs a training of eight steps whose scores are scripted; nothing is compiled."""
    trained, last = [], [0]

    def train(self, state, batch):
        last[0] = int(state.step) + 1
        trained.append(last[0])
        metrics = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1, "confusion": np.eye(5, dtype=int)}
        return state.replace(step=state.step + 1), metrics

    def evaluate_split(*arguments, between):
        between()
        return Evaluation(Scores.from_confusion(np.diag([RIGHT[last[0] - 1]] * 5) + 1), {})

    monkeypatch.setattr(Parallel, "train", train)
    monkeypatch.setattr(steps, "evaluate_split", evaluate_split)

    def of(workdir, patience):
        trained.clear()
        config = make_config(train__steps=8, train__eval_every=1, train__log_every=1, train__patience=patience)
        return loop.run(config, workdir), list(trained)

    return of


@pytest.mark.thorough
def test_it_ends_after_so_many_evaluations_without_gain(run, tmp_path, caplog):
    caplog.set_level("INFO", "absl")
    result, trained = run(tmp_path / "run", 3)
    assert (result["step"], trained) == (5, [1, 2, 3, 4, 5])
    assert "step 5: val mIoU has not risen for 3 evaluations: the training ends" in caplog.text
    assert run(tmp_path / "run", 3) == (result, [])


@pytest.mark.thorough
def test_more_patience_goes_on(run, tmp_path):
    assert run(tmp_path / "run", 1)[1] == [1, 2, 3]
    result, trained = run(tmp_path / "run", 4)
    assert (result["step"], trained) == (8, [4, 5, 6, 7, 8])


@pytest.mark.thorough
def test_a_run_that_was_stopped_remembers(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        save = steps.Steps._save

        def stopping(self, step, state):
            save(self, step, state)
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(steps.Steps, "_save", stopping)
        with pytest.raises(Stopped, match="step 4 is saved"):
            run(tmp_path / "run", 3)
    result, trained = run(tmp_path / "run", 3)
    assert (result["step"], trained) == (5, [5])
    # As if it was killed before its result.
    (tmp_path / "run/result.json").unlink()
    again, trained = run(tmp_path / "run", 3)
    assert (again["step"], trained) == (5, [])
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val_miou" in line] == [1, 2, 3, 4, 5]
