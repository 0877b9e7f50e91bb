"""Workdirs in which something is broken: continued where that can be, else one line that names the file."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from attnseg_jax.errors import NotFinite, UserError
from attnseg_jax.inference.evaluation import evaluate_run
from attnseg_jax.inference.restore import predict, predict_with_records, restore_run
from attnseg_jax.train import loop, steps
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.parallel import Parallel


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(train__steps=2, train__eval_every=1, train__keep=2)


@pytest.fixture(scope="module")
def finished(shared_steps, config, tmp_path_factory):
    """(workdir, result); a step only shifts the averaged parameters, which spares compiling a real one."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"

    def train(self, state, batch):
        ema = jax.tree.map(lambda x: jax.device_put(x + 0.01, x.sharding), state.ema)
        metrics = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1, "confusion": np.eye(5, dtype=int)}
        return state.replace(step=state.step + 1, ema=ema), metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parallel, "train", train)
        return workdir, loop.run(config, workdir)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


@pytest.fixture(autouse=True)
def no_step(finished, monkeypatch):
    """Everything is trained already."""
    monkeypatch.setattr(Parallel, "train", None)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe{}", "is not JSON"),
        (b"[1, 2]", "is no JSON object"),
        (b"3", "is no JSON object"),
        (b'{"schema": [1]}', "has schema"),
        (b'{"schema": 1, "train": 3}', "the group 'train'"),
        (b'{"schema": 1, "seed": {"a": 3}}', "the group 'seed'"),
    ],
)
def test_a_damaged_config(content, words, copy):
    (copy / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        evaluate_run(str(copy))
    assert str(copy / "config.json") in str(error.value)


@pytest.mark.parametrize("content", [b'{"step": 2}', b"\xff"])
def test_a_damaged_result_is_found_again(content, config, copy, finished):
    (copy / "result.json").write_bytes(content)
    assert loop.run(config, copy) == finished[1]
    assert json.loads((copy / "result.json").read_text()) == finished[1]


@pytest.mark.parametrize("name", ["predictions", "maps", "tensorboard", "checkpoints"])
def test_a_file_where_a_folder_should_be(name, config, copy):
    shutil.rmtree(copy / name)
    (copy / name).write_text("mine")
    (copy / "result.json").unlink()
    with pytest.raises(UserError, match=rf"--workdir=.*copy.*{name}.* cannot be used"):
        loop.run(config, copy)
    assert (copy / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl", "result.json", "curves.png"])
def test_a_folder_where_a_file_should_be(name, config, copy):
    (copy / "result.json").unlink()
    (copy / name).unlink(missing_ok=True)
    (copy / name / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"--workdir=.*{name}.* cannot be used"):
        loop.run(config, copy)


def test_metrics_with_bad_lines(config, copy, finished):
    (copy / "result.json").unlink()
    lines = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_bytes(b"".join([lines[0], b"[1]\n", b"\xff\n", b'{"step": "x"}\n', *lines[1:]]))
    assert loop.run(config, copy) == finished[1]
    assert (copy / "metrics.jsonl").read_bytes() == b"".join(lines)


def test_a_name_that_is_too_long(config, make_config, tmp_path):
    with pytest.raises(UserError, match=r"--workdir=.* cannot be used \(File name too long\)"):
        loop.run(config, tmp_path / ("a" * 300))
    with pytest.raises(UserError, match="File name too long"):
        evaluate_run(str(tmp_path / ("a" * 300)))
    with pytest.raises(UserError, match=r"init_from=.*there is no such file"):
        loop.run(make_config(init_from="b" * 5000), tmp_path / "run")


@pytest.mark.thorough
@pytest.mark.parametrize("part", ["manifest.json", "metrics.json", "state/_METADATA", "_CHECKPOINT_METADATA"])
def test_a_file_of_the_newest_checkpoint_cut_to_nothing(part, copy, finished):
    (copy / "checkpoints/2" / part).write_bytes(b"")
    found = json.loads(evaluate_run(str(copy)).json)
    assert found["step"] == (1 if part in ("manifest.json", "state/_METADATA") else 2)


@pytest.mark.parametrize("scored", [True, False])
def test_logits_that_are_not_finite(scored, config, copy, monkeypatch):
    """A checkpoint without a score is dropped with them; one that had a score before stays."""
    evaluate = steps.evaluate_split

    def ruined(config, model, parallel, variables, source, **options):
        return evaluate(config, model, parallel, jax.tree.map(lambda x: x * np.nan, variables), source, **options)

    monkeypatch.setattr(steps, "evaluate_split", ruined)
    (copy / "result.json").unlink()
    if not scored:
        (copy / "checkpoints/2/metrics.json").unlink()
    kept = 2 if scored else 1
    with pytest.raises(UserError, match=rf"step 2 has logits .* image 'b\d.* of step {kept} is kept, .* goes back"):
        loop.run(config, copy)
    with Checkpoints(copy / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest_step() == kept


def test_ruined_weights_are_named_by_eval_and_prediction(copy):
    restored = restore_run(str(copy))
    ruined = dataclasses.replace(restored, variables=jax.tree.map(lambda x: x * np.nan, restored.variables))
    with pytest.raises(NotFinite, match=r"not finite, as of image 'b\d"):
        predict(ruined, [restored.source[1]])
    with pytest.raises(NotFinite, match="logits of step 2 are not finite"):
        predict_with_records(ruined, restored.source[0]["image"])
