"""Faults in runs of two processes: both end soon, each with one line that says why, and the same command continues."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from pair import Pair

from reliability.runs import Runs, gives_one_reason, report, same_run, train

# From the fault to the end of both processes.
SECONDS = 60
JOINED = "validation images"
_SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
_CONFIGS = {"seed": 5, "train.steps": 31, "optimizer.learning_rate": 0.01, "data.crop": (16, 32), "data.classes": "abc"}


class Pairs:
    """Runs of two processes that have the data in folders of their own.

    Attributes:
      whole: the workdir of a run that nothing disturbs.
      starting, seconds: that it takes before its first step, and from there on.
    """

    def __init__(self, runs: Runs):
        self._runs, self.folder = runs, runs.folder / "pairs"
        self.data = [self.folder / f"data{index}" for index in range(2)]
        self.whole = self.folder / "whole"
        self.restore()
        # What is compiled takes its time in the first run only.
        for _ in range(2):
            shutil.rmtree(self.whole, ignore_errors=True)
            began = time.monotonic()
            with self.start(self.whole) as pair:
                pair.wait_for(JOINED)
                self.starting = time.monotonic() - began
                assert pair.end(300) == [0, 0], pair.errors(0) + pair.errors(1)
            self.seconds = time.monotonic() - began - self.starting

    def restore(self) -> None:
        """Makes the data whole."""
        for folder in self.data:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self._runs.flags["data.dir"], folder)

    def start(self, workdir: Path, other: int = 0, **changes) -> Pair:
        """Starts both; process `other` with other flags."""
        flags = [{**self._runs.flags, "data.dir": folder, "distributed": True} for folder in self.data]
        flags[other].update(changes)
        return Pair(lambda index: train(workdir, flags[index]), self.folder, **self._runs.cache)


def faults_of_pairs(runs: Runs, tries: range) -> Iterator[str]:
    """One of ten kinds after the other, at any time and in any process."""
    pairs = Pairs(runs)
    for attempt in tries:
        workdir, rng = pairs.folder / f"run{attempt}", np.random.default_rng((3, attempt))
        kind, victim = attempt % 10, int(rng.integers(2))
        if kind < 6:
            what, end = _signal(pairs, workdir, _SIGNALS[kind // 2], kind % 2, rng)
        elif kind < 8:
            what, end = _unreadable(pairs, workdir, kind == 7, victim, rng)
        elif kind == 8:
            key = list(_CONFIGS)[rng.integers(len(_CONFIGS))]
            what = f"config.{key} of process {victim}"
            end = _end(pairs, pairs.start(workdir, victim, **{key: _CONFIGS[key]}), workdir)
        else:
            what, end = _other_data(pairs, workdir, victim, rng)
        pairs.restore()
        if end == "recovered":
            end = _continued(pairs, workdir)
        if end != "recovered":
            report(f"{workdir}: {what}", end)
        yield end.partition(":")[0]


def _signal(pairs: Pairs, workdir: Path, number: int, victim: int, rng: np.random.Generator) -> tuple[str, str]:
    pair, wait = pairs.start(workdir), rng.uniform(0, pairs.seconds)

    def strike() -> None:
        pair.processes[victim].send_signal(number)

    what = f"{signal.Signals(number).name} to process {victim} after {wait:.1f} s"
    return what, _end(pairs, pair, workdir, wait, strike, victim if number == signal.SIGKILL else None)


def _unreadable(pairs: Pairs, workdir: Path, later: bool, victim: int, rng: np.random.Generator) -> tuple[str, str]:
    """All images or all masks of a split in the folder of one process, before the run or during it."""
    kind, split = ("images", "masks")[rng.integers(2)], ("train", "val")[rng.integers(2)]

    def strike() -> None:
        for path in (pairs.data[victim] / kind / split).iterdir():
            path.write_bytes(rng.bytes(path.stat().st_size))

    if not later:
        strike()
    wait = rng.uniform(0, pairs.seconds / 2) if later else None
    what = f"{kind} of {split} unreadable for process {victim}" + (f" after {wait:.1f} s" if later else "")
    return what, _end(pairs, pairs.start(workdir), workdir, wait, strike)


def _other_data(pairs: Pairs, workdir: Path, victim: int, rng: np.random.Generator) -> tuple[str, str]:
    """Fewer pictures, or other ones, in the folder of one process."""
    split = ("train", "val")[rng.integers(2)]
    one, other = (f"{split}/{number}.png" for number in rng.permutation(4)[:2])
    less = rng.integers(2)
    for kind in ("images", "masks"):
        path = pairs.data[victim] / kind / one
        path.unlink()
        if not less:
            shutil.copy(pairs.data[victim] / kind / other, path)
    what = f"{one} of process {victim} is {'missing' if less else 'another picture'}"
    return what, _end(pairs, pairs.start(workdir), workdir)


def _end(
    pairs: Pairs,
    pair: Pair,
    workdir: Path,
    wait: float | None = None,
    strike: Callable[[], None] = lambda: None,
    killed: int | None = None,
) -> str:
    """How both processes end after `strike`, which comes so many seconds after they have joined; else they begin so."""
    with pair:
        if wait is not None:
            # Without them, the processes have ended before.
            with suppress(AssertionError):
                pair.wait_for(JOINED)
            time.sleep(wait)
            strike()
        try:
            codes = pair.end(SECONDS + (pairs.starting if wait is None else 0))
        except AssertionError as error:
            return f"unclear: no end\n{error}"
        texts = [pair.errors(index) for index in range(2)]
    said = "\n".join(f"process {index}: {code}\n{text}" for index, (code, text) in enumerate(zip(codes, texts)))
    if not all(_is_clear(code, text) for index, (code, text) in enumerate(zip(codes, texts)) if index != killed):
        return f"unclear: {said}"
    if 0 in codes and not ((workdir / "result.json").exists() and same_run(workdir, pairs.whole)):
        return f"silent: {said}"
    return "recovered"


def _is_clear(code: int, text: str) -> bool:
    return "Traceback" not in text and (code == 0 or (code in (2, 130, 143) and gives_one_reason(text)))


def _continued(pairs: Pairs, workdir: Path) -> str:
    with pairs.start(workdir) as pair:
        try:
            codes = pair.end(300)
        except AssertionError as error:
            return f"unclear: the same command again does not end\n{error}"
        said = pair.errors(0) + pair.errors(1)
    if codes != [0, 0]:
        return f"unclear: the same command again: {codes}\n{said}"
    if not same_run(workdir, pairs.whole):
        return f"silent: another end of the same command again\n{said}"
    shutil.rmtree(workdir)
    return "recovered"
