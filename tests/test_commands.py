"""train.py and eval.py as a person calls them: what bad input leads to, and the words for it."""

import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from flax.traverse_util import flatten_dict
from refusals import assert_refused

from attnseg_jax import cli
from attnseg_jax.cli import entry
from attnseg_jax.configs import default
from attnseg_jax.errors import Stopped, UserError, UserErrors
from attnseg_jax.inference import evaluation
from attnseg_jax.train import loop

ROOT = Path(__file__).parents[1]


# ml_collections reads config files that way.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data__dir": ""}, ["config.data.dir is empty"]),
        ({"train__batch_size": 20}, ["config.train.batch_size=20", "8 devices", "give 16 or 32"]),
        ({"model__attention__self__heads": 3}, ["config.model.attention.self.heads=3", "8 channels"]),
        ({"model__attention__name": "slef"}, ["config.model.attention.name='slef'", "did you mean 'self'?"]),
        ({"model__backbone__name": "resnet20"}, ["config.model.backbone.name='resnet20'", "resnet"]),
        ({"parallel": "pmpa"}, ["config.parallel='pmpa'", "'pmap'"]),
        ({"dtype": "float16"}, ["config.dtype='float16'", "float"]),
        ({"loss__name": "cross"}, ["config.loss.name='cross'", "cross_entropy"]),
        ({"loss__class_weights": "given"}, ["config.loss.weights", "5 numbers"]),
        ({"optimizer__name": "adam"}, ["config.optimizer.name='adam'", "adamw"]),
        ({"optimizer__warmup_steps": -6}, ["config.optimizer.warmup_steps=-6"]),
        ({"seed": -1}, ["config.seed=-1"]),
        ({"train__keep": 0}, ["config.train.keep=0"]),
        ({"data__crop": "(7, 32)"}, ["config.data.crop=(7, 32)"]),
        # Of the command line itself.
        ({"train__stesp": 3}, ["config.train.stesp is unknown", "did you mean 'steps'?"]),
        ({"train": 3}, ["config.train is a group"]),
        ({"train__steps": "many"}, ["config.train.steps", "many"]),
        ({"train__steps": 2.5}, ["config.train.steps", "2.5"]),
        ({"data__crop": 5}, ["config.data.crop"]),
        ({"data__check": "perhaps"}, ["config.data.check", "perhaps"]),
        ({"data__mean": "(1, 'a', 3)"}, ["config.data.mean"]),
        ({"data__palette": "(1, 2, 3)"}, ["config.data.palette=(1, 2, 3)", "colours"]),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_bad_values(changes, words, train, tmp_path):
    assert_refused(train(tmp_path / "run", **changes), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--config=nix.py"], ["--config=nix.py", "does not exist"]),
        (["--config", "nix.py"], ["--config=nix.py", "does not exist"]),
        (["--wrokdir=x"], ["unknown flag --wrokdir", "did you mean 'workdir'?"]),
        (["steps=3"], ["unexpected argument 'steps=3'", "--name=value"]),
        (["--config.train.steps=0"], ["config.train.steps=0", "at least 1"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_bad_command_lines(argv, words, call, tmp_path, monkeypatch):
    # The whole embedded set takes seconds to draw.
    small = ["--config.data.tfds_name=attnseg_context/small", f"--config.data.dir={tmp_path}"]
    if argv[0].startswith("--config."):
        argv = [*argv, *small]
    assert_refused(call("train.py", *argv), *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], ["--workdir is missing"]),
        (["--workdir=nowhere"], ["nowhere/config.json does not exist"]),
        (["--workdir=x", "--slpit=val"], ["unknown flag --slpit", "'split'"]),
        (["--workdir=x", "more"], ["unexpected argument 'more'"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_bad_evaluations(argv, words, call):
    assert_refused(call("eval.py", *argv), *words)


def test_the_default_workdir_and_what_is_printed(call, blocks_flags, monkeypatch, tmp_path):
    """The loop is left out: this is about the command around it."""
    seen = []

    def run(config, workdir):
        seen.append((config, workdir))
        return {"split": "val", "step": 6, "miou": 0.25}

    monkeypatch.setattr(loop, "run", run)
    command = ["train.py", *(f"--config.{key}={value}" for key, value in blocks_flags.items())]
    code, out, _ = call(*command)
    assert code == 0
    (config, workdir) = seen[0]
    assert workdir.parent.name == "runs" and workdir.name.startswith("default-") and len(workdir.name) == 16
    assert config.data.classes == blocks_flags["data.classes"] and config.data.crop == (24, 32)
    assert config.train.steps == 6 and config.is_locked
    assert out.splitlines()[0] == "validation mIoU 0.2500 on 'val' at step 6"
    for path in ("checkpoints", "curves.png", "predictions"):
        assert str(workdir / path) in out
    monkeypatch.setattr(loop, "run", lambda config, workdir: {**run(config, workdir), "miou": None})
    assert call(*command)[1].splitlines()[0] == "validation mIoU absent on 'val' at step 6"
    monkeypatch.setattr(loop, "run", run)
    seen.pop()
    # Equal configs share the folder, others do not.
    call(*command), call(*command, "--config.seed=1"), call(*command, "--workdir=~/here")
    assert seen[1][1] == workdir != seen[2][1] and seen[3][1] == Path.home() / "here"
    multipliers = "--config.optimizer.lr_multipliers=('backbone/.*=0.1',)"
    for given in (ROOT / "configs/camvid_resnet18_attention.py", "camvid_resnet18_attention"):
        call("train.py", f"--config={given}", "--config.train.steps=70", multipliers)
    (config, workdir), again = seen[4:]
    assert workdir.name.startswith("camvid_resnet18_attention-") and config.train.steps == 70
    assert config.optimizer.lr_multipliers == ("backbone/.*=0.1",)
    assert again[1] == workdir


def test_every_key_can_be_set_and_the_last_value_counts(call, monkeypatch):
    values = flatten_dict(default.get_config().to_dict())

    def other(value):
        if isinstance(value, bool):
            return not value
        return value + type(value)(1) if isinstance(value, int | float) else (value or "text")

    wanted = {path: other(value) for path, value in values.items()}
    # Of each key an earlier value, in both forms of a flag.
    before = [part for path, value in values.items() for part in (f"--config.{'.'.join(path)}", str(value))]
    after = [f"--config.{'.'.join(path)}={value}" for path, value in wanted.items()]
    monkeypatch.setattr(loop, "run", lambda config, workdir: seen.append(config) or {"split": "", "step": 0, "miou": 0})
    seen = []
    code, _, err = call("train.py", "--workdir=x", *before, *after)
    assert code == 0, err
    found = flatten_dict(seen[0].to_dict())
    # An empty tuple says nothing of the type of its elements.
    assert {path: found[path] for path in wanted if values[path] != ()} == {
        path: value for path, value in wanted.items() if values[path] != ()
    }


def test_a_folder_without_a_source_means_that_folder(call, monkeypatch, blocks, tmp_path):
    """With names from the command line or from the folder; a source or a data set that is named is what is meant."""
    seen = []
    monkeypatch.setattr(loop, "run", lambda config, _: seen.append(config.data) or {"split": "", "step": 1, "miou": 0})
    root = shutil.copytree(blocks, tmp_path / "own")
    call("train.py", f"--config.data.dir={root}", "--config.data.classes=sky, road,tree", "--config.hooks=a.b:C")
    assert seen[-1].source == "folder" and seen[-1].classes == ("sky", "road", "tree")
    call("train.py", f"--config.data.dir={root}", "--config.data.classes", "sky, road,tree")
    assert seen[-1].classes == ("sky", "road", "tree")
    for given in ("--config.data.source=tfds", "--config.data.name=context", "--config.data.tfds_name=other"):
        call("train.py", f"--config.data.dir={root}", given)
        assert seen[-1].source == "tfds"
    call("train.py", "--config.data.ids={0: 1, 255: 0}", "--config.data.classes=('a,b', 'c')")
    assert seen[-1].ids == ((0, 1), (255, 0)) and seen[-1].classes == ("a,b", "c") and seen[-1].source == "tfds"
    assert_refused(call("train.py", f"--config.data.dir={tmp_path}/none"), "none: there is no such folder")
    assert_refused(call("train.py", "--config.data.ids={0:"), "config.data.ids={0:", "'{0: 0, 255: 1}'")


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--config.data.dir={root}", ["config.data.classes is empty", "classes.txt"]),
        ("--config.data.source=folder", ["config.data.dir is empty"]),
        ("--config.data.source=folder --config.data.dir={root}", ["config.data.classes is empty"]),
        ("--config.data.source=tfds --config.data.dir={root}", ["holds a folder 'images'", "data.source='folder'"]),
    ],
)
def test_a_folder_is_not_taken_for_the_embedded_data_set(flags, words, call, blocks, tmp_path):
    root = shutil.copytree(blocks, tmp_path / "own")
    before = sorted(root.rglob("*"))
    assert_refused(call("train.py", *flags.format(root=root).split()), *words)
    assert sorted(root.rglob("*")) == before and not (tmp_path / "runs").exists()


def test_an_evaluation_with_other_settings(call, monkeypatch):
    seen = []

    def run(*arguments, report):
        assert not report
        seen.append(arguments[-1])
        return SimpleNamespace(table="table", json="{}")

    monkeypatch.setattr(evaluation, "evaluate_run", run)
    given = ["--config.eval.batch_size=3", "--config.eval.size_multiple=64"]
    assert call("eval.py", "--workdir=runs/some", *given)[0] == 0
    assert call("eval.py", "--workdir=runs/some")[0] == 0
    assert seen == [{"eval.batch_size": 3, "eval.size_multiple": 64}, {}]
    for argument, words in {
        "--config.eval.batchsize=3": ["config.eval.batchsize is unknown", "batch_size"],
        "--config.train.steps=3": ["--config.train.steps", "--config.eval.*"],
        "--config.eval.batch_size=many": ["batch_size", "many"],
        "--config.eval=3": ["--config.eval", "--config.eval.*"],
    }.items():
        assert_refused(call("eval.py", "--workdir=runs/some", argument), *words)


@pytest.mark.parametrize("script, names", [("train.py", ["config", "workdir"]), ("eval.py", ["workdir", "checkpoint"])])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(script, names, flag, call):
    code, out, _ = call(script, flag)
    assert code == 0
    assert f"python {script} --" in out
    for name in names:
        assert f"  --{name}: " in out
    # It fits a screen.
    assert out.count("\n") < 50 and max(map(len, out.splitlines())) <= 120


def test_help_explains_every_key(call):
    code, out, _ = call("train.py", "--help=all")
    assert code == 0
    lines = out.splitlines()
    keys = [number for number, line in enumerate(lines) if line.startswith("--config.")]
    assert len(keys) == len(flatten_dict(default.get_config().to_dict()))
    assert [lines[i] for i in keys if not lines[i + 1].startswith("    ")] == []
    for topic, line, meaning in (
        ("train", "--config.train.steps=400", "Optimizer steps of the whole run."),
        ("data.hue", "--config.data.hue=0.0", "Strengths of the colour jitter"),
        ("model.attention.local", "--config.model.attention.local.kernel=7", "pixels on a side of the neighbourhood"),
        ("model.attention.self", "--config.model.attention.self.impl='auto'", "How attention is computed"),
    ):
        _, out, _ = call("train.py", f"--help={topic}")
        assert f"{line}\n    {meaning}" in out
    assert_refused(
        call("train.py", "--help=model.atention"), "--help=model.atention", "did you mean 'model.attention'?"
    )


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("two\nlines"), 2, "error: two lines"),
        (UserErrors("2 files:", ["a: cut", "b:\nempty"]), 2, "error: 2 files:\n  a: cut\n  b: empty"),
        (Stopped("by a signal; go on"), 128 + signal.SIGTERM, "stopped by a signal; go on"),
        (Stopped("by Ctrl-C; go on", signal.SIGINT), 130, "stopped by Ctrl-C; go on"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_how_a_command_ends(error, code, line, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as stop:
        entry._guarded(fail)
    assert stop.value.code == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize(("path", "told"), [("orbax/read.py", False), ("mine.py", True)])
def test_coroutines_of_a_read_that_failed_are_silent(path, told, monkeypatch):
    names, shown = {}, []
    exec(compile("async def read(): pass", path, "exec"), names)
    reading = names["read"]()
    reading.close()
    monkeypatch.setattr(cli, "_unraisable", shown.append)
    cli._told_already(SimpleNamespace(object=reading, exc_value=RuntimeError("coroutine ignored GeneratorExit")))
    assert len(shown) == told


def test_an_error_that_is_nobodys_fault_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        entry._guarded(lambda: 1 / 0)
