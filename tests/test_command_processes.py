"""train.py and eval.py as processes of their own: exit codes, and what goes to which stream."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def process(script, *argv, cwd):
    return subprocess.Popen(
        [sys.executable, ROOT / script, *argv], cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(os.environ, XLA_FLAGS="", JAX_PLATFORMS="cpu"),
    )  # fmt: skip


def outcome(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.thorough
def test_bad_input_to_real_processes(blocks, blocks_flags, tmp_path):
    """From another working directory, all at once."""
    root = shutil.copytree(blocks, tmp_path / "data")
    broken = root / "images/train/b7.png"
    broken.write_bytes(broken.read_bytes()[:-400])
    values = [f"--config.{key}={value}" for key, value in {**blocks_flags, "data.dir": root}.items()]
    processes = [
        process("train.py", *values, "--workdir=run", cwd=tmp_path),
        process("train.py", "--config.train.steps=x", cwd=tmp_path),
        process("eval.py", "--workdir=nowhere", cwd=tmp_path),
    ]
    for one, expected in zip(processes, (str(broken), "config.train.steps", "nowhere/config.json")):
        code, out, err = outcome(one)
        assert (code, out) == (2, "")
        assert err.count("error: ") == 1 and "Traceback" not in err
        assert err.splitlines()[-1].startswith("error: ") and expected in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_sigterm_to_a_real_process(blocks_flags, tmp_path):
    values = [f"--config.{key}={value}" for key, value in {**blocks_flags, "train.steps": 100000}.items()]
    values += ["--config.train.eval_every=100000", "--workdir=run"]
    one = process("train.py", *values, cwd=tmp_path)
    for line in one.stderr:
        if "step 2/" in line:
            one.terminate()
            break
    code, out, err = outcome(one)
    assert (code, out) == (143, "")
    assert "is saved, the same command continues there" in err.splitlines()[-1]
    assert len([path for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdecimal()]) == 1


@pytest.mark.slow
def test_train_and_evaluate(blocks_flags, tmp_path):
    """Two real processes: the result is in eval.py's last line, and is printed again by the same command."""
    values = [f"--config.{key}={value}" for key, value in blocks_flags.items()]
    first = outcome(process("train.py", *values, cwd=tmp_path))
    (workdir,) = (tmp_path / "runs").iterdir()
    result = json.loads((workdir / "result.json").read_text())
    scores = outcome(process("eval.py", f"--workdir={workdir}", cwd=tmp_path))
    assert scores[0] == 0 and json.loads(scores[1].splitlines()[-1]) == result
    again = outcome(process("train.py", *values, cwd=tmp_path))
    assert first[0] == again[0] == 0 and again[1] == first[1]
    assert f"validation mIoU {result['miou']:.4f} (lowest: " in first[1] and ") on 'val' at step 6" in first[1]
