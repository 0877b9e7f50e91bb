"""The training loop: the one place that compiles, logs and saves."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
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
from attnseg_jax.data.sources import Source, absent_classes, check_classes, load_source, survey
from attnseg_jax.errors import Stopped, UserError
from attnseg_jax.evaluation import tables
from attnseg_jax.files import check_folder, locked_workdir, write_atomically
from attnseg_jax.train import config as configs
from attnseg_jax.train import continued
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.evaluation import Evaluation, evaluate_split
from attnseg_jax.train.hooks import Hook, Hooks, Training, hook_classes
from attnseg_jax.train.initial import fit_given, has_checkpoint, initial_state, known_before, read_given
from attnseg_jax.train.parallel import initialize_distributed
from attnseg_jax.train.setup import Run, class_weights, make_run
from attnseg_jax.train.sizes import crop_multiple
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
    workdir, asked = Path(workdir), configs.with_folder(config)
    config = catalogue.apply(asked, known_before(asked, workdir))
    initialize_distributed(config.distributed)
    if (result := _finished(config, workdir)) is not None:
        logging.info("%s is finished; its result:", workdir)
        return result

    # Before the data, which take longer to look at.
    configs.check_values(config)
    classes = hook_classes(config)
    given = None if has_checkpoint(workdir) else read_given(config)
    train_source = load_source(config.data, config.data.train_split)
    eval_source = load_source(config.data, config.data.eval_split)
    info = train_source.info
    train = make_run(
        config, len(info.class_names), lambda: _surveyed_weights(config, workdir, train_source, eval_source)
    )
    initial = given and fit_given(given, train.model, train.abstract, len(info.class_names))
    if initial:
        config, initial = initial.prepared(asked)
    logging.info(
        "%d training and %d validation images, %d classes, %.2f M parameters, %d %s device(s) by %s",
        len(train_source), len(eval_source), len(info.class_names), _millions(train.abstract.params),
        jax.device_count(), jax.default_backend(), config.parallel,
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(_own_workdir(config, workdir))
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=config.train.keep))
        state = initial_state(checkpoints, train.abstract, train.create, initial, workdir)
        start = int(state.step)
        continued.check_config(config, workdir, start)
        continued.check_data(workdir, start, training=train_source, validation=eval_source)
        _write_config(config, workdir)
        hooks = stack.enter_context(Hooks(Training(config, workdir, eval_source, checkpoints, start), classes))
        batches = train_batches(
            train_source, config.data, batch_size=config.train.batch_size, seed=config.seed, start_step=start,
            multiple=crop_multiple(config, train.model),
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip
        stack.enter_context(closing(batches))
        evaluation = _train(config, train, state, batches, eval_source, checkpoints, hooks)
        checkpoints.wait()
        hooks(Hook.after_training)
        return _finish(config, workdir, max(start, config.train.steps), info.class_names, evaluation)


def _train(
    config: ConfigDict,
    train: Run,
    state: TrainState,
    batches: Iterator[dict[str, np.ndarray]],
    source: Source,
    checkpoints: Checkpoints,
    hooks: Hooks,
) -> Evaluation:
    """Runs the remaining steps, with an evaluation and a checkpoint every `eval_every`; returns the last evaluation."""
    start, steps, every = int(state.step), config.train.steps, config.train.eval_every
    state = train.parallel.put_state(state)

    def absorb(step: int, metrics: dict) -> None:
        metrics = jax.device_get(metrics)
        _check_finite(step, metrics, checkpoints)
        hooks(Hook.after_step, step, metrics)

    def evaluate_and_save(step: int) -> Evaluation:
        hooks(Hook.before_pause, step)
        evaluation = evaluate_split(config, train.model, train.parallel, eval_variables(state), source)
        hooks(Hook.after_evaluation, step, state, evaluation)
        miou = evaluation.scores.miou
        checkpoints.save(step, state, {"miou": miou if np.isfinite(miou) else 0.0})
        hooks(Hook.after_save, step)
        return evaluation

    pending: tuple[int, dict] | None = None
    evaluation: Evaluation | None = None
    with _stop_requests() as stop_requested:
        if start and start % every == 0 and not checkpoints.metrics(start):
            # A signal came before this step was evaluated.
            evaluation = evaluate_and_save(start)
        for step in range(start + 1, steps + 1):
            hooks(Hook.before_step, step)
            state, metrics = train.parallel.train(state, train.parallel.shard_batch(next(batches)))
            # Step n is on its way; only now is it worth waiting for the metrics of step n - 1.
            if pending:
                absorb(*pending)
            pending = (step, metrics)

            last, stop = step == steps, stop_requested(step)
            if last or stop or step % every == 0:
                absorb(*pending)
                pending = None
                if stop and not last:
                    hooks(Hook.before_pause, step)
                    checkpoints.save(step, state)
                    checkpoints.wait()
                    hooks(Hook.after_save, step)
                    raise Stopped(f"by a signal; step {step} is saved, the same command continues there")
                evaluation = evaluate_and_save(step)
        # All steps may have been there already, and only the result was missing.
        return evaluation or evaluate_and_save(start)


def _surveyed_weights(
    config: ConfigDict, workdir: Path, train_source: Source, eval_source: Source
) -> np.ndarray | None:
    """Class weights, after every file was read once where the config asks for it."""
    names = train_source.info.class_names
    check = config.data.check and not (workdir / "config.json").exists()
    counts = None
    if config.loss.class_weights == "median_frequency" or check:
        counts = survey(train_source)
        if check:
            check_classes(train_source, counts)
        elif absent := absent_classes(train_source, counts):
            logging.warning("no pixel of the training masks is %s, which cannot be learned", absent)
    if check and (absent := absent_classes(eval_source, survey(eval_source))):
        logging.warning("no pixel of the %s masks is %s: no score tells of it", config.data.eval_split, absent)
    return class_weights(config.loss, names, counts)


def _millions(params: Any) -> float:
    return sum(np.prod(x.shape) for x in jax.tree.leaves(params)) / 1e6


@contextmanager
def _own_workdir(config: ConfigDict, workdir: Path) -> Iterator[None]:
    """Checks that workdir and region cache can be written, and locks the workdir against another training."""
    if regions.used(config.data.regions):
        region_cache.check(config.data.regions.cache)
    if jax.process_index() == 0:
        with locked_workdir(workdir, "another training"):
            yield
    else:
        check_folder("--workdir", workdir)
        yield


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


def _check_finite(step: int, metrics: dict[str, Any], checkpoints: Checkpoints) -> None:
    if np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]):
        return
    checkpoints.wait()
    latest = checkpoints.latest_step()
    kept = "there is no checkpoint yet" if latest is None else f"the checkpoint of step {latest} is kept"
    raise UserError(
        f"loss {metrics['loss']} with gradient norm {metrics['grad_norm']} at step {step}: training stops, {kept}; "
        "lower config.optimizer.learning_rate, or set config.optimizer.clip_norm"
    )


def _finish(
    config: ConfigDict, workdir: Path, step: int, class_names: tuple[str, ...], evaluation: Evaluation
) -> dict[str, Any]:
    text = tables.to_json(config.data.eval_split, step, evaluation.scores, class_names)
    if jax.process_index() == 0:
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
