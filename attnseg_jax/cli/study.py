"""Trains a list of configs and seeds, one after another, and compares their results.

    python -m attnseg_jax.cli.study --study=studies/reach --workdir=runs/reach
    python -m attnseg_jax.cli.study --study=studies/reach --workdir=runs/reach --max_minutes=60 --only=self

The same command again goes on: a run whose result is in the results file is not repeated, even if its folder is gone,
and a broken one continues from its checkpoint. Beside the results file it writes tables (.md), plots (.png,
_bootstrap.png) and predictions of a few images (_sheet.png; with the photographs WORKDIR/sheet.png).

Times of runs on several days or machines cannot be compared: --time takes those of all systems that have a finished run
anew, one after another, by 12 steps and an evaluation of each. The machine should have nothing else to do.

    python -m attnseg_jax.cli.study --draw --results=docs/reach/results.json

writes the tables and plots of a results file again and needs nothing but the file.
"""

import datetime
import functools
import json
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import jax
from absl import flags, logging
from tqdm import tqdm

from attnseg_jax import configs
from attnseg_jax.cli import entry
from attnseg_jax.errors import Stopped, UserError
from attnseg_jax.evaluation import tables
from attnseg_jax.files import expanded, locked_workdir
from attnseg_jax.study import entries, report, timing
from attnseg_jax.study.entries import PlannedRun
from attnseg_jax.study.records import Results
from attnseg_jax.train.logging import is_terminal, say


def _flags() -> None:
    flags.DEFINE_string("study", None, "study, by name or file: its get_study() lists what to train; required")
    flags.DEFINE_string("workdir", None, "folder of the study, with a folder for each run; required")
    flags.DEFINE_string("results", None, "JSON that results are added to (default: WORKDIR/results.json)")
    flags.DEFINE_string("data_dir", None, "where the data are (default: where the configs say)")
    flags.DEFINE_string("only", "", "regular expression; only runs whose label holds it (default: all)")
    flags.DEFINE_float("max_minutes", None, "no run starts later than this (default: no limit)", lower_bound=0)
    flags.DEFINE_bool("time", False, "if nothing is left to train, take the times of all systems (default: false)")
    flags.DEFINE_bool("draw", False, "write tables and plots of --results again and train nothing (default: false)")
    flags.DEFINE_bool("dry_run", False, "list what would run, with an estimate, and change nothing (default: false)")


def _study() -> None:
    """Trains what is missing, writes tables and pictures, and prints the tables."""
    values = flags.FLAGS
    if values.draw:
        print(_redrawn(values.results))
        return
    for flag in ("study", "workdir"):
        if not values[flag].value:
            raise UserError(f"--{flag} is missing: see --help")
    # The runs need the accelerators; what this process computes are costs.
    jax.config.update("jax_platforms", "cpu")
    study = configs.find(values.study, "--study")
    runs = entries.plan(entries.load_study(study), Path(study).parent, values.data_dir)
    chosen = _chosen(runs, values.only)
    folder = expanded(values.workdir)
    results = Results(expanded(values.results) if values.results else folder / "results.json")
    if values.dry_run:
        print(listing(chosen, results, folder))
        return
    others = "another study, or by a run that a killed one left behind"
    with locked_workdir(folder, others) as held, _raising_on_sigterm():
        # A file that cannot be written would be noticed after hours.
        results.write()
        failures = _train(chosen, results, folder, held, values.max_minutes)
        if values.time:
            missing = sum(not results.finished(run) for run in chosen)
            if missing:
                logging.warning("--time: no times are taken, for %d runs are not finished", missing)
            else:
                _time(runs, results, folder, held)
        report.add_costs(runs, results)
        text = report.write_report(runs, results, folder)
    print(text)
    if failures:
        raise UserError(f"{len(failures)} of {len(chosen)} runs failed, the first: {failures[0]}")


def _redrawn(path: str | None) -> str:
    if not path:
        raise UserError("--draw needs --results: the JSON file of a study")
    results = Results(expanded(path))
    if not any("result" in record for record in results.records.values()):
        raise UserError(f"--results={path} has no finished run to draw")
    return report.redraw(results)


def _chosen(runs: Sequence[PlannedRun], only: str) -> list[PlannedRun]:
    try:
        chosen = [run for run in runs if re.search(only, run.entry.label)]
    except re.error as error:
        raise UserError(f"--only={only} is no regular expression: {error}") from None
    if not chosen:
        labels = dict.fromkeys(run.entry.label for run in runs)
        raise UserError(f"--only={only} is in no label: {', '.join(labels)}")
    return chosen


def listing(runs: Sequence[PlannedRun], results: Results, folder: Path) -> str:
    """A line per run (what would happen, label, seed, hash, differences), and an estimate for those that would run."""
    known: dict[str, list[float]] = {}
    for record in results.records.values():
        if "result" in record and record["seconds"]:
            known.setdefault(record["label"], []).append(record["seconds"] / record["steps"])
    every = [pace for paces in known.values() for pace in paces]
    lines, left, steps, seconds = [], 0, 0, 0.0
    for run in runs:
        if results.finished(run):
            state = "finished"
        else:
            state = "continue" if (folder / "runs" / run.name).exists() else "train"
            left, steps = left + 1, steps + run.config.train.steps
            if every:
                seconds += run.config.train.steps * statistics.median(known.get(run.entry.label, every))
        changes = " ".join(f"{key}={value}" for key, value in run.changes.items() if key != "seed")
        lines.append(f"{state:8}  {run.entry.label:20}  seed {run.seed}  {run.key}  {changes}")
    lines.append(f"{left} of {len(runs)} runs to train, {steps} steps")
    if left and every:
        lines.append(f"about {seconds / 60:.0f} minutes, by the median of the finished ones (of the label, if any is)")
    elif left:
        lines.append("no finished run to estimate the time from")
    return "\n".join(lines)


@contextmanager
def _raising_on_sigterm() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Stopped("by a signal; what was trained is saved, the same command continues there")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(
    runs: Sequence[PlannedRun], results: Results, folder: Path, held: BinaryIO, max_minutes: float | None
) -> list[str]:
    """Trains what is missing; returns what failed."""
    todo = [run for run in runs if not results.finished(run)]
    logging.info("%d runs, %d of them finished already", len(runs), len(runs) - len(todo))
    deadline = time.monotonic() + 60 * (float("inf") if max_minutes is None else max_minutes)
    failures = []
    with _Board(todo) as board:
        for number, run in enumerate(todo):
            if time.monotonic() >= deadline:
                say(f"--max_minutes={max_minutes:g} are over: {len(todo) - number} runs are left")
                break
            workdir = folder / "runs" / run.name
            board.start(run, workdir)
            error = _train_one(run, results, workdir, folder / "logs" / f"{run.name}.log", held, board)
            if error:
                failures.append(f"{run}: {error}")
    return failures


def _train_one(run: PlannedRun, results: Results, workdir: Path, log: Path, held: BinaryIO, board: "_Board") -> str:
    since = time.perf_counter()
    try:
        trained, error = entries.train(run, workdir, log, held, board.show)
    except (KeyboardInterrupt, Stopped):
        results.add_failure(run, time.perf_counter() - since, "stopped")
        raise
    seconds = time.perf_counter() - since
    if error:
        results.add_failure(run, seconds, error)
        board.finish(f"{run}: failed after {seconds:.0f} s: {error} (see {log})")
        return error
    results.add_result(run, workdir, seconds if trained else None)
    result = results.finished(run)["result"]
    miou = tables.mean_iou(result["miou"], result.get("iou", {}), result.get("left_out", ()))
    board.finish(f"{run}: mIoU {miou}, {seconds:.0f} s")
    return ""


def _time(runs: Sequence[PlannedRun], results: Results, folder: Path, held: BinaryIO) -> None:
    """Takes the times of all systems that have a finished run; they are kept if that works out for all."""
    first: dict[str, PlannedRun] = {}
    for run in runs:
        if results.finished(run):
            first.setdefault(run.entry.label, run)
    shorts = [timing.shortened(run) for run in first.values()]
    when, taken = datetime.date.today().isoformat(), {}
    timing.prepare_data(shorts)
    with _Board(shorts) as board:
        for short in shorts:
            workdir = folder / "timing" / short.name
            board.start(short, workdir)
            times = timing.measure(short, workdir, folder / "logs" / f"{short.name}.log", held, board.show)
            taken[short.entry.label] = {**times, "together": when}
            board.finish(f"{short.entry.label}: " + ", ".join(f"{name} {value:.4g}" for name, value in times.items()))
    for label, times in taken.items():
        results.add_timing([run for run in runs if run.entry.label == label], times)


class _Board:
    """A bar over the steps of all runs on a terminal, with what runs now; log lines elsewhere."""

    def __init__(self, runs: Sequence[PlannedRun]):
        self._bar = self._run = None
        self._done = 0
        if runs and is_terminal(sys.stderr):
            total = sum(run.config.train.steps for run in runs)
            self._bar = tqdm(total=total, unit="step", dynamic_ncols=True, smoothing=0.1)

    def start(self, run: PlannedRun, workdir: Path) -> None:
        self._run, self._metrics = run, workdir / "metrics.jsonl"
        if self._bar is None:
            logging.info("%s: training in %s", run, workdir)
        else:
            self.show()

    def show(self) -> None:
        """How far the run is."""
        if self._bar is None:
            return
        try:
            last = json.loads(self._metrics.read_text().splitlines()[-1])
        except (OSError, ValueError, IndexError):
            last = {"step": 0}
        self._bar.set_postfix_str(f"{self._run}, step {last['step']}/{self._run.config.train.steps}", refresh=False)
        self._bar.update(max(0, self._done + last["step"] - self._bar.n))
        self._bar.refresh()

    def finish(self, text: str) -> None:
        self._done += self._run.config.train.steps
        if self._bar is not None:
            self._bar.update(max(0, self._done - self._bar.n))
        say(text)

    def __enter__(self) -> "_Board":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


main = functools.partial(entry.run, _study, _flags, usage=__doc__)

if __name__ == "__main__":
    main()
