"""The hooks of every run: logs, pictures, the table of classes, profiler traces."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from attnseg_jax.evaluation import tables
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.files import check_folder, read_series, write_atomically
from attnseg_jax.plots import charts, segmentation
from attnseg_jax.train.evaluation import draw_samples, left_out
from attnseg_jax.train.hooks import Hook, Training
from attnseg_jax.train.logging import MetricWriter, Progress, peak_bytes, say


class Log(Hook):
    """Metrics, scores and times into the files of `MetricWriter`, progress on the terminal."""

    def __init__(self, training: Training):
        super().__init__(training)
        config, start = training.config, training.start_step
        self._left_out = left_out(config, training.source.info.class_names)
        self._meter = Meter(self._left_out)
        evaluated = bool(training.checkpoints.metrics(start))
        self._writer = MetricWriter(training.workdir, start_step=start, evaluated=evaluated)
        self._progress = Progress(config.train.steps, config.train.batch_size, start_step=start)
        self._pause = contextlib.ExitStack()

    def before_step(self, step):
        """Goes on with the clock, and says why the first step takes a while."""
        self._pause.close()
        if step == self.training.start_step + 1:
            say("compiling the training step, which may take minutes")

    def after_step(self, step, metrics):
        """Adds the metrics; every `log_every` steps writes their means."""
        self._meter.add(metrics)
        if step % self.training.config.train.log_every == 0:
            self._write(step)
        else:
            self._progress.update(step)

    def before_pause(self, step):
        """Every saved step ends a line: the sums between two lines are not saved with it."""
        if self._meter.steps:
            self._write(step)
        self._pause.enter_context(self._progress.pause())

    def after_evaluation(self, step, state, evaluation):
        """Writes the scores and what they cost."""
        scores, checkpoints = evaluation.scores, self.training.checkpoints
        self._writer.write_timing(step, image_seconds=scores.image_seconds, peak_bytes=peak_bytes())
        if not checkpoints.metrics(step):
            # A checkpoint with metrics has its line already.
            self._writer.write_scores(step, scores, self.training.source.info.class_names)
        miou = tables.mean_of(scores, self.training.source.info.class_names)
        say(f"step {step}: val mIoU {miou}, pixel accuracy {scores.pixel_accuracy:.4f}")

    def close(self):
        """Closes the files and leaves the bar as it stands."""
        self._progress.close()
        self._writer.close()

    def _write(self, step: int) -> None:
        steps, metrics, self._meter = self._meter.steps, self._meter.result(), Meter(self._left_out)
        self._writer.write(step, metrics)
        seconds, waited = self._progress.update(step, metrics), self.training.waits.take()
        wait = waited / (seconds * steps) if seconds else None
        self._writer.write_timing(step, step_seconds=seconds, data_wait=wait)


class Pictures(Hook):
    """Samples of evaluations as pictures, the fixed ones of the last as maps with its counts, and the curves."""

    # Of the evaluations with the highest mIoU, beside the newest.
    kept = 5

    def __init__(self, training: Training):
        super().__init__(training)
        if jax.process_index() == 0:
            for name in ("predictions", "maps"):
                check_folder("--workdir", training.workdir / name)

    def after_evaluation(self, step, state, evaluation):
        """Writes `predictions/step_STEP.png`, `maps/INDEX.png` and `counts.json`; removes all but a few of the first.

        These are the newest, and those of the highest mIoU. Of classes that may overlap there is a
        `maps/CLASS/INDEX.png` for each.
        """
        if jax.process_index() != 0:
            return
        workdir, source = self.training.workdir, self.training.source
        if evaluation.scores.images is not None:
            counts = json.dumps(evaluation.scores.images.encode()) + "\n"
            write_atomically(workdir / "counts.json", counts.encode())
        draw_samples(evaluation, source, workdir / "predictions" / f"step_{step}.png", step)
        self._remove_pictures(step)
        for index, prediction in evaluation.samples.items():
            if source.info.multilabel:
                paths = [workdir / "maps" / name / f"{index}.png" for name in source.info.class_names]
                segmentation.write_label_maps(prediction, source.info.palette, paths)
            else:
                segmentation.write_label_map(prediction, source.info.palette, workdir / "maps" / f"{index}.png")

    def _remove_pictures(self, newest: int) -> None:
        steps, scores = read_series(self.training.workdir / "metrics.jsonl").get("val_miou", ([], []))
        best = sorted(zip(scores, steps, strict=True))[-self.kept :]
        kept = {f"step_{step}.png" for step in (newest, *(step for _, step in best))}
        for path in (self.training.workdir / "predictions").glob("step_*.png"):
            if path.name not in kept:
                path.unlink()

    def after_training(self):
        """Writes `curves.png`."""
        workdir = self.training.workdir
        if jax.process_index() == 0:
            charts.training_curves(read_series(workdir / "metrics.jsonl"), workdir / "curves.png")


class ClassTable(Hook):
    """The scores of every class in the end, beside those of the best checkpoint, in WORKDIR/result.txt."""

    def __init__(self, training: Training):
        super().__init__(training)
        self._path = training.workdir / "result.txt"
        if jax.process_index() == 0:
            self._path.unlink(missing_ok=True)

    def after_evaluation(self, step, state, evaluation):
        """Keeps the scores."""
        self._step, self._scores = step, evaluation.scores

    def after_training(self):
        """Writes the table, and what one might overlook in it."""
        best = self.training.checkpoints.best_step()
        if jax.process_index() != 0:
            return
        names = self.training.source.info.class_names
        beside = None if best in (None, self._step) else _scores_of(best, self.training.workdir / "metrics.jsonl")
        lines = [tables.table(self._scores, names, beside)]
        if missed := [name for name, value in zip(names, self._scores.iou) if value == 0]:
            lines.append(f"IoU 0: {', '.join(missed)}")
        if beside:
            lines.append(f"step {best} is the best checkpoint: eval.py --checkpoint=best")
        elif best == self._step:
            lines.append("the last checkpoint is also the best")
        write_atomically(self._path, ("\n".join(lines) + "\n").encode())


def _scores_of(step: int, path: Path) -> dict[str, Any]:
    """The validation scores of a step in metrics.jsonl, in the form of `evaluation.tables.to_json`."""
    found = {name: dict(zip(*points)).get(step) for name, points in read_series(path).items()}
    values = {name.removeprefix("val_"): value for name, value in found.items() if name.startswith("val_")}
    iou = {name.removeprefix("iou/"): value for name, value in values.items() if name.startswith("iou/")}
    return {"step": step, "iou": iou, **values}


class Profile(Hook):
    """A profiler trace of each step of `config.train.profile` in WORKDIR/profile, for TensorBoard or Perfetto."""

    _traced: int | None = None

    def before_step(self, step):
        """Starts a trace, where one is asked for and none runs."""
        if step in self.training.config.train.profile and self._traced is None:
            jax.profiler.start_trace(self.training.workdir / "profile")
            self._traced = step

    def after_step(self, step, metrics):
        """Ends the trace of this step, which is then complete."""
        if step == self._traced:
            self.close()
            logging.info("trace of step %d: %s", step, self.training.workdir / "profile")

    def close(self):
        """Ends a trace that still runs."""
        if self._traced is not None:
            jax.profiler.stop_trace()
            self._traced = None


class Meter:
    """Sums training metrics between two log lines.

    Args:
      left_out: classes that do not count in the mIoU.

    Attributes:
      steps: that were added.
    """

    def __init__(self, left_out: Sequence[int] = ()):
        self._left_out = left_out
        self.steps = 0
        self._sums: dict[str, float] = {}
        self._confusion: np.ndarray | int = 0

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Adds one step's metrics, already on the host."""
        self.steps += 1
        for name, value in metrics.items():
            if name == "confusion":
                self._confusion = self._confusion + np.asarray(value, np.int64)
            elif name == "learning_rate":
                self._learning_rate = float(value)
            else:
                self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def result(self) -> dict[str, float]:
        """Means over the added steps, mIoU and pixel accuracy of their pixels where counted, the last learning rate.

        Where the mIoU is not that of all classes, `absent_classes` is the number of the others.
        """
        result = {name: value / self.steps for name, value in self._sums.items()}
        if isinstance(self._confusion, np.ndarray):
            scores = Scores.from_confusion(self._confusion).without(self._left_out)
            result |= {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
            if absent := int(np.isnan(np.delete(scores.iou, [*self._left_out])).sum()):
                result["absent_classes"] = absent
        return {**result, "learning_rate": self._learning_rate}


# Of every run, in this order; those of `config.hooks` come after them.
HOOKS = (Log, Pictures, ClassTable, Profile)
