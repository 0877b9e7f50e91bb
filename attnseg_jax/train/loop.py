"""The training loop: the one place that compiles, logs and saves."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from attnseg_jax.data import regions
from attnseg_jax.data.pipeline import train_batches
from attnseg_jax.data.regions import cache as region_cache
from attnseg_jax.data.sources import Source, load_source, survey
from attnseg_jax.errors import Stopped, UserError
from attnseg_jax.evaluation import tables
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.files import check_folder, locked_workdir, read_series, write_atomically
from attnseg_jax.plots import charts
from attnseg_jax.train import config as configs
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.evaluation import evaluate_split
from attnseg_jax.train.initial import Initial, fit_given, read_given, write_record
from attnseg_jax.train.logging import MetricWriter, Progress, peak_bytes
from attnseg_jax.train.parallel import initialize_distributed
from attnseg_jax.train.setup import Run, class_weights, make_run
from attnseg_jax.train.state import TrainState, eval_variables
from attnseg_jax.weights import catalogue


def run(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains what `config` describes in `workdir`, or continues there; returns the final result.

    The initial state is the latest checkpoint of the workdir, else that of `config.init_from`, else a fresh one, with
    the backbone of `config.model.backbone.pretrained` where that is given; a line says which, and `initial.json` what
    was loaded. A finished run is not trained again, its result is returned.

    Returns:
      The JSON object of the final evaluation (see `evaluation.tables.to_json`).

    Raises:
      UserError: a mistake in config, data or workdir, before anything is written; a loss that is not finite, after
        which the last good checkpoint is still there.
      Stopped: SIGTERM came; the last step is saved.
    """
    workdir, config = Path(workdir), catalogue.apply(config)
    initialize_distributed(config.distributed)
    finished = _finished(config, workdir)
    if finished is not None:
        logging.info("%s is finished; its result:", workdir)
        return finished

    # Before the data, which take longer to look at.
    configs.check_values(config)
    given = None if _has_checkpoint(workdir) else read_given(config)
    train_source = load_source(config.data, config.data.train_split)
    eval_source = load_source(config.data, config.data.eval_split)
    info = train_source.info
    train = make_run(
        config, len(info.class_names), lambda: _surveyed_weights(config, workdir, train_source, eval_source)
    )
    logging.info(
        "%d training and %d validation images, %d classes, %.2f M parameters, %d %s device(s) by %s",
        len(train_source), len(eval_source), len(info.class_names), _millions(train.abstract.params),
        jax.device_count(), jax.default_backend(), config.parallel,
    )  # fmt: skip

    initial = given and fit_given(given, train.model, train.abstract, len(info.class_names))
    if regions.used(config.data.regions):
        region_cache.check(config.data.regions.cache)
    with ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(locked_workdir(workdir, "another training"))
        else:
            check_folder("--workdir", workdir)
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=config.train.keep))
        state = _initial_state(train, checkpoints, workdir, initial)
        start = int(state.step)
        _write_config(config, workdir)
        state = train.parallel.put_state(state)
        writer = stack.enter_context(MetricWriter(workdir, start_step=start))
        progress = stack.enter_context(Progress(config.train.steps, config.train.batch_size, start_step=start))
        batches = train_batches(
            train_source, config.data, batch_size=config.train.batch_size, seed=config.seed, start_step=start,
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip
        stack.enter_context(closing(batches))
        stop_requested = stack.enter_context(_stop_requests())
        meter = Meter(len(info.class_names))
        evaluate = partial(_evaluate_and_save, config, workdir, train, eval_source, checkpoints, writer, progress)
        pending: tuple[int, dict] | None = None
        scores: Scores | None = None
        if start and start % config.train.eval_every == 0 and not checkpoints.metrics(start):
            # A signal came before this step was evaluated.
            scores = evaluate(start, state)

        for step in range(start + 1, config.train.steps + 1):
            batch = train.parallel.shard_batch(next(batches))
            state, metrics = train.parallel.train(state, batch)
            # Step n is on its way; only now is it worth waiting for the metrics of step n - 1.
            if pending:
                _absorb(*pending, meter, checkpoints)
                _log(pending[0], config, meter, writer, progress)
            pending = (step, metrics)

            last, stop = step == config.train.steps, stop_requested(step)
            if last or stop or step % config.train.eval_every == 0:
                # Every saved step ends a log line: the sums between two lines are not saved with it.
                _absorb(*pending, meter, checkpoints)
                _log(step, config, meter, writer, progress, force=True)
                pending = None
                if stop and not last:
                    checkpoints.save(step, state)
                    checkpoints.wait()
                    raise Stopped(f"by a signal; step {step} is saved, the same command continues there")
                scores = evaluate(step, state)
        if scores is None:
            # All steps were there already; only the result was missing.
            scores = evaluate(start, state)
        checkpoints.wait()
        return _finish(config, workdir, max(start, config.train.steps), info.class_names, scores)


class Meter:
    """Sums training metrics between two log lines."""

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._confusion = np.zeros((self._num_classes, self._num_classes), np.int64)

    def add(self, metrics: dict[str, Any]) -> None:
        """Adds one step's metrics, already on the host."""
        self._confusion += metrics["confusion"]
        self._steps += 1
        for name, value in metrics.items():
            if name not in ("confusion", "learning_rate"):
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._learning_rate = float(metrics["learning_rate"])

    def result(self) -> dict[str, float]:
        """Means over the added steps, the last learning rate, and mIoU and pixel accuracy of all their pixels."""
        scores = Scores.from_confusion(self._confusion)
        means = {name: value / self._steps for name, value in self._sums.items()}
        return {
            **means,
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "learning_rate": self._learning_rate,
        }


def _surveyed_weights(
    config: ConfigDict, workdir: Path, train_source: Source, eval_source: Source
) -> np.ndarray | None:
    """Class weights, after every file was read once where the config asks for it."""
    names = train_source.info.class_names
    fresh = not (workdir / "config.json").exists()
    counts = None
    if config.loss.class_weights == "median_frequency" or (config.data.check and fresh):
        counts = survey(train_source)
    if config.data.check and fresh:
        survey(eval_source)
    return class_weights(config.loss, names, counts)


def _millions(params: Any) -> float:
    return sum(np.prod(x.shape) for x in jax.tree.leaves(params)) / 1e6


def _has_checkpoint(workdir: Path) -> bool:
    try:
        return any(path.name.isdecimal() for path in (workdir / "checkpoints").iterdir())
    except OSError:
        return False


def _initial_state(train: Run, checkpoints: Checkpoints, workdir: Path, initial: Initial | None) -> TrainState:
    restored = checkpoints.restore_latest(train.abstract)
    if restored is not None:
        step, state = restored
        logging.info("initial state: resumed from step %d of %s", step, workdir)
        return state
    write_record(workdir, initial)
    if initial is None:
        logging.info("initial state: from scratch")
        return train.create()
    initial.log()
    return initial.load_into(train.create())


def _write_config(config: ConfigDict, workdir: Path) -> None:
    if jax.process_index() != 0:
        return
    path, text = workdir / "config.json", configs.to_json(config)
    if path.exists() and path.read_text() != text:
        for line in configs.differences(configs.resolve(configs.load(workdir)), configs.resolve(config)):
            logging.warning("this run continues with another config: %s", line)
    # The result of another config, or none; it must not outlive the config that it belongs to.
    (workdir / "result.json").unlink(missing_ok=True)
    write_atomically(path, text.encode())


def _absorb(step: int, metrics: dict, meter: Meter, checkpoints: Checkpoints) -> None:
    metrics = jax.device_get(metrics)
    if not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])):
        checkpoints.wait()
        latest = checkpoints.latest_step()
        kept = "there is no checkpoint yet" if latest is None else f"the checkpoint of step {latest} is kept"
        raise UserError(
            f"loss {metrics['loss']} with gradient norm {metrics['grad_norm']} at step {step}: training stops, {kept}; "
            "lower config.optimizer.learning_rate, or set config.optimizer.clip_norm"
        )
    meter.add(metrics)


def _log(
    step: int, config: ConfigDict, meter: Meter, writer: MetricWriter, progress: Progress, *, force: bool = False
) -> None:
    if not force and step % config.train.log_every:
        progress.update(step)
        return
    metrics = meter.result()
    meter.reset()
    writer.write(step, metrics)
    writer.write_timing(step, step_seconds=progress.update(step, metrics))


def _evaluate_and_save(
    config: ConfigDict,
    workdir: Path,
    train: Run,
    source: Source,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    progress: Progress,
    step: int,
    state: TrainState,
) -> Scores:
    picture = workdir / "predictions" / f"step_{step}.png"
    with progress.pause():
        scores = evaluate_split(config, train.parallel, eval_variables(state), source, picture=picture, keep=workdir)
        writer.write_timing(step, image_seconds=scores.image_seconds, peak_bytes=peak_bytes())
        if not (step in checkpoints.steps() and checkpoints.metrics(step)):
            # A checkpoint with metrics has its line already.
            writer.write_scores(step, scores, source.info.class_names)
        miou = scores.miou if np.isfinite(scores.miou) else 0.0
        checkpoints.save(step, state, {"miou": miou})
    progress.message(f"step {step}: val mIoU {scores.miou:.4f}, pixel accuracy {scores.pixel_accuracy:.4f}")
    return scores


def _finish(
    config: ConfigDict, workdir: Path, step: int, class_names: tuple[str, ...], scores: Scores
) -> dict[str, Any]:
    text = tables.to_json(config.data.eval_split, step, scores, class_names)
    if jax.process_index() == 0:
        charts.training_curves(read_series(workdir / "metrics.jsonl"), workdir / "curves.png")
        # Written last: it marks the run as finished.
        write_atomically(workdir / "result.json", (text + "\n").encode())
    return json.loads(text)


def _finished(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """The result of a finished run of this very config, or None."""
    try:
        same = (workdir / "config.json").read_text() == configs.to_json(config)
        return json.loads((workdir / "result.json").read_text()) if same else None
    except (OSError, ValueError):
        return None


@contextmanager
def _stop_requests() -> Iterator[Callable[[int], bool]]:
    """A function to call after each step: has SIGTERM come, which schedulers send before they take a machine away?"""
    if jax.process_count() > 1:
        # jax listens for the signal itself, and all processes agree on the step.
        yield multihost_utils.reached_preemption_sync_point
        return
    event = threading.Event()
    # Only a main thread may set handlers.
    handles = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set()) if handles else None
    try:
        yield lambda step: event.is_set()
    finally:
        if handles:
            signal.signal(signal.SIGTERM, before)
