"""Output of a training: metric files and TensorBoard, and a progress bar or log lines."""

import contextlib
import errno
import io
import json
import math
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.evaluation.tables import finite
from attnseg_jax.files import write_atomically
from attnseg_jax.train.board import Board

T = TypeVar("T")


class MetricWriter:
    """Appends metrics to WORKDIR/metrics.jsonl and WORKDIR/tensorboard; on processes other than 0 it does nothing.

    A line is one JSON object, `step` and metrics; NaN and infinities are null. Training metrics are `loss`, `miou`,
    `learning_rate`, ...; those of an evaluation begin with `val_` (see `write_scores`).

    What depends on the machine goes to WORKDIR/timing.jsonl in the same form, so that the metrics of a run do not.

    `start_step` is the step a run resumes from (0 for a new one): lines of later steps and a torn last line are
    dropped, because the resumed run writes them again. So are the scores of that step where it counts as not
    `evaluated`: the run was killed between their line and the end of its checkpoint.
    """

    def __init__(self, workdir: str | os.PathLike, *, start_step: int = 0, evaluated: bool = True):
        self._file = self._board = None
        if jax.process_index() != 0:
            return
        path = Path(workdir) / "metrics.jsonl"
        self._timing = path.with_name("timing.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        for lines in (path, self._timing):
            _drop_after(lines, start_step, evaluated)
        self._board = Board(path.parent / "tensorboard", purge_step=start_step + 1)
        self._file = path.open("ab", buffering=0)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes scalars (numbers, 0-d arrays) of a step as one line, on disk when this returns."""
        if self._file is None:
            return
        values = {name: finite(value) for name, value in metrics.items()}
        _append(self._file, step, values)
        self._board.write(int(step), {name: value for name, value in values.items() if value is not None})

    def write_timing(self, step: int, **seconds: float | None) -> None:
        """Writes one line of figures of this machine; None is left out."""
        values = {name: finite(value) for name, value in seconds.items() if value is not None}
        if self._file is not None and values:
            with self._timing.open("ab", buffering=0) as file:
                _append(file, step, values)

    def write_scores(self, step: int, scores: Scores, class_names: Sequence[str]) -> None:
        """Writes `val_miou`, `val_pixel_accuracy`, `val_class_accuracy` and `val_iou/NAME` for each class name.

        Where the images were counted, `val_boundary_miou` too, and where it was measured `val_cross_entropy`.
        """
        values = {name: getattr(scores, name) for name in ("miou", "pixel_accuracy", "class_accuracy")}
        if not math.isnan(scores.cross_entropy):
            values["cross_entropy"] = scores.cross_entropy
        if scores.images is not None:
            values["boundary_miou"] = scores.boundary_miou
        values |= {f"iou/{name}": value for name, value in zip(class_names, scores.iou, strict=True)}
        self.write(step, {f"val_{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Closes both; to call it again does nothing."""
        if self._file is not None:
            self._file.close()
            self._board.close()
        self._file = self._board = None


def _append(file: io.FileIO, step: int, values: Mapping[str, float | None]) -> None:
    """Writes a line, or nothing where there is no space for it."""
    line = (json.dumps({"step": int(step), **values}, allow_nan=False, ensure_ascii=False) + "\n").encode()
    size = os.fstat(file.fileno()).st_size
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(size)
        raise


def _drop_after(path: Path, step: int, evaluated: bool) -> None:
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _is_kept(line, step, evaluated)]
    if kept != lines:
        write_atomically(path, b"".join(kept))


def _is_kept(line: bytes, last: int, evaluated: bool) -> bool:
    try:
        values = json.loads(line)
        step = float(values["step"])
    except (ValueError, KeyError, TypeError):
        return False
    return step < last or (step == last and (evaluated or "val_miou" not in values))


class Progress:
    """A bar on a terminal, log lines elsewhere; on processes other than 0 it is silent.

    `batch_size` is the global one. `terminal` None asks `stream`. The speed is that of the steps since the last report,
    without the time spent in `pause()` and until the first update, whose step has the compilation.
    """

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        *,
        start_step: int = 0,
        terminal: bool | None = None,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._total, self._batch_size, self._clock = total_steps, batch_size, clock
        self._stream = stream or sys.stderr
        self._silent = jax.process_index() != 0
        self._bar = None
        if not self._silent and (is_terminal(self._stream) if terminal is None else terminal):
            self._bar = tqdm(
                total=total_steps,
                initial=start_step,
                file=self._stream,
                bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
                dynamic_ncols=True,
                disable=False,
            )
        self._reported_step, self._since = start_step, clock()
        self._compiled = self._paced = False

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> float | None:
        """`step` steps are done; with `metrics` it reports their `loss` and `miou` (each optional) and the speed.

        Returns:
          Seconds a step since the last report; None without a report, and for the first one.
        """
        if self._silent:
            return None
        report = pace = None
        if metrics is not None:
            report, pace = self._report(step, metrics)
        elif not self._compiled:
            self._reported_step, self._since = step, self._clock()
        self._compiled = True
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            if report is not None:
                self._bar.set_postfix_str(report)
        elif report is not None:
            logging.info("step %d/%d %s", step, self._total, report)
        return pace

    def _report(self, step: int, metrics: Mapping[str, Any]) -> tuple[str, float | None]:
        now = self._clock()
        steps, seconds = step - self._reported_step, now - self._since
        self._reported_step, self._since = step, now
        labels = {"loss": "loss", "miou": "mIoU"}
        words = [f"{label} {float(metrics[name]):.3f}" for name, label in labels.items() if name in metrics]
        if absent := metrics.get("absent_classes"):
            words.append(f"({absent} absent)")
        pace = seconds / steps if steps > 0 and self._paced else None
        self._paced = True
        if steps > 0 and seconds > 0 and self._compiled:
            left = tqdm.format_interval((self._total - step) * seconds / steps)
            words.append(f"{steps * self._batch_size / seconds:.1f} images/s, {left} left")
        return " ".join(words), pace

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The time spent inside `with progress.pause():` (an evaluation, a save) does not count for the speed."""
        begin = self._clock()
        try:
            yield
        finally:
            self._since += self._clock() - begin

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Waits:
    """Seconds in which the loop waits for batches, since they were last asked for."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._seconds = clock, 0.0

    def __call__(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches, with the time counted that each takes to come."""
        while True:
            begin = self._clock()
            batch = next(batches, None)
            self._seconds += self._clock() - begin
            if batch is None:
                return
            yield batch

    def take(self) -> float:
        """The seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class ImageBar:
    """Says how far an evaluation is: a bar on a terminal, elsewhere a line every few seconds; process 0 only.

    An `on_batch` of `evaluation.scores.score_batches`, used as a context.
    """

    def __init__(
        self, description: str, total: int, *, every: float = 10.0, clock: Callable[[], float] = time.monotonic
    ):
        self._description, self._total, self._every, self._clock = description, total, every, clock
        self._done, self._begin = 0, clock()
        self._said = self._begin
        self._bar = None
        if jax.process_index() == 0 and is_terminal(sys.stderr):
            self._bar = tqdm(total=total, desc=description, unit=" images", leave=False, dynamic_ncols=True)

    def __call__(self, batch: Mapping[str, Any], predictions: Any) -> None:
        """Notes that a batch with `valid` [b] is done."""
        count = int(np.sum(batch["valid"])) * jax.process_count()
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif jax.process_index() == 0 and self._done < self._total and self._clock() - self._said >= self._every:
            self._said = self._clock()
            left = (self._said - self._begin) * (self._total - self._done) / max(self._done, 1)
            words = self._description, self._done, self._total, tqdm.format_interval(left)
            logging.info("%s: %d of %d images, %s left", *words)

    def __enter__(self) -> "ImageBar":
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()


def say(text: str) -> None:
    """A line of its own (process 0 only), above whatever bars there are."""
    if jax.process_index() != 0:
        return
    if is_terminal(sys.stderr):
        tqdm.write(text, file=sys.stderr)
    else:
        logging.info("%s", text)


def peak_bytes() -> int:
    """The most memory that this process has held at once."""
    try:
        # What the kernel gives to everyone (`ru_maxrss`) begins with the memory of the process that started this one.
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def is_terminal(stream: io.TextIOBase) -> bool:
    """Whether a bar can be drawn on a stream."""
    # TQDM_DISABLE is tqdm's own switch against bars; the log lines take their place.
    if not stream.isatty() or os.environ.get("TQDM_DISABLE"):
        return False
    # A container's terminal may have no size; tqdm draws nothing there.
    return min(os.get_terminal_size(stream.fileno())) > 0
