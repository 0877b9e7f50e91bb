"""Trainings in processes of their own, and whether two of them are the same run."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from pair import ROOT, listening_to_interrupts
from PIL import Image

# Of one command, with other work on the machine.
SECONDS = 300
CLASSES = ("red", "green", "blue")
FLAGS = {
    "data.source": "folder",
    "data.name": "",
    "data.classes": CLASSES,
    "data.crop": (24, 32),
    "data.check": False,
    "loss.class_weights": "none",
    "model.backbone.tiny.width": 8,
    "model.attention.self.channels": 8,
    "model.attention.self.dropout": 0.1,
    "model.decoder.fcn.channels": 8,
    "optimizer.warmup_steps": 2,
    "train.batch_size": 4,
    "train.steps": 30,
    "train.eval_every": 5,
    "eval.batch_size": 4,
}

# For a few tries: fewer steps, and no pictures of predictions.
SHORT = {"train.steps": 15, "eval.samples": 0, "eval.worst": 0}
_REASON = re.compile(r"error: |stopped |(process \d of \d: )?interrupted$")


def write_data(folder: Path) -> Path:
    """Eight images and four, of blocks whose colour tells their class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            label = np.kron(rng.integers(0, 3, (2, 2)), np.ones((12, 16), int)).astype(np.uint8)
            image = (200 * np.eye(3)[label] + rng.normal(20, 8, (24, 32, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / "images" / split / f"{i}.png")
            Image.fromarray(label).save(folder / "masks" / split / f"{i}.png")
    return folder


def train(workdir: Path, flags: dict) -> list[str]:
    """The command of a training."""
    script = [sys.executable, str(ROOT / "train.py"), f"--workdir={workdir}"]
    return [*script, *(f"--config.{key}={value}" for key, value in flags.items())]


class Runs:
    """Commands in a folder of their own, which share what they compile.

    Attributes:
      whole: the workdir of a run that nothing disturbs.
      seconds: that it takes from its first step on.
    """

    def __init__(self, folder: Path, **flags):
        self.folder = folder
        self.flags = {**FLAGS, "data.dir": str(write_data(folder / "data")), **flags}
        self.cache = dict(
            JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"
        )
        self.environment = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            JAX_PLATFORMS="cpu",
            JAX_DISABLE_MOST_OPTIMIZATIONS="1",
            TF_CPP_MIN_LOG_LEVEL="2",
        )
        self.environment.pop("XLA_FLAGS", None)
        self.whole = folder / "whole"
        process = self.start(self.whole)
        self.wait_for_start(process, self.whole, "metrics.jsonl")
        began = time.monotonic()
        code, text = self.end(process)
        assert code == 0, text
        self.seconds = time.monotonic() - began

    def start(self, workdir: Path, cached: bool = True) -> subprocess.Popen:
        """Starts a training."""
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        environment = {**self.environment, **(self.cache if cached else {})}
        with listening_to_interrupts():
            return subprocess.Popen(train(workdir, self.flags), cwd=self.folder, env=environment, text=True, **pipes)

    def wait_for_start(self, process: subprocess.Popen, workdir: Path, file: str = "config.json") -> None:
        """Waits until the process has written a file, as it does its config when a training begins."""
        path = workdir / file
        before = path.stat().st_mtime_ns if path.exists() else 0
        while process.poll() is None and not (path.exists() and path.stat().st_mtime_ns > before):
            time.sleep(0.005)

    def end(self, process: subprocess.Popen) -> tuple[int | None, str]:
        """(exit code, what it said on stderr); None for one that hangs, which is killed."""
        try:
            _, text = process.communicate(timeout=SECONDS)
            return process.returncode, text
        except subprocess.TimeoutExpired:
            process.kill()
            return None, process.communicate()[1]

    def finish(self, workdir: Path) -> str:
        """The same command, undisturbed: recovered where the run then is the whole one; removes what is good."""
        code, text = self.end(self.start(workdir))
        if code == 0 and same_run(workdir, self.whole):
            shutil.rmtree(workdir)
            return "recovered"
        report(f"{workdir}, the same command again: {code}", text)
        return "silent" if code == 0 else "unclear"


def same_run(workdir: Path, whole: Path) -> bool:
    """Whether two runs ended with the same scores and the same state, to the bit."""
    from attnseg_jax.train.checkpoint import Checkpoints

    scores, states = [], []
    for folder in (workdir, whole):
        # A step that is saved on a signal ends a line of training metrics, so that these are spread otherwise.
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        scores.append([(folder / "result.json").read_text(), *(line for line in lines if "val_miou" in line)])
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            states.append(checkpoints.restore_arrays()[:2])
    (step, one), (other_step, other) = states
    return (
        scores[0] == scores[1]
        and step == other_step
        and one.keys() == other.keys()
        and all((one[k] == other[k]).all() for k in one)
    )


def gives_one_reason(text: str) -> bool:
    """Whether the last line, and no other one, says why a command ended."""
    reasons = [bool(_REASON.match(line)) for line in text.splitlines()]
    return sum(reasons) == 1 and reasons[-1]


def report(what, text: str) -> None:
    """Says on stderr what went wrong."""
    print(f"--- {what}\n{text[-3000:]}", file=sys.stderr, flush=True)
