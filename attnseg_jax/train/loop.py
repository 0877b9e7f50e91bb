"""The training loop: the one place that compiles, logs and saves."""

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from attnseg_jax.data import regions
from attnseg_jax.data.listing import Listing, adding_to
from attnseg_jax.data.pipeline import train_batches, training_samples
from attnseg_jax.data.regions import cache as region_cache
from attnseg_jax.data.sources import Source, Survey, absent_classes, check_classes, load_source, survey
from attnseg_jax.errors import Stopped, UserError
from attnseg_jax.evaluation import tables
from attnseg_jax.files import check_folder, locked_workdir, out_of_space, write_atomically
from attnseg_jax.train import config as configs
from attnseg_jax.train import continued, processes
from attnseg_jax.train.built_in_hooks import HOOKS
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.evaluation import Evaluation, left_out
from attnseg_jax.train.hooks import Hook, Hooks, Training, classes_of
from attnseg_jax.train.initial import fit_given, has_checkpoint, initial_state, known_before, read_given
from attnseg_jax.train.orbax_arrays import of_process_0
from attnseg_jax.train.setup import class_weights, make_run
from attnseg_jax.train.sizes import crop_multiple
from attnseg_jax.train.steps import Steps
from attnseg_jax.train.stop import stop_requests
from attnseg_jax.weights import catalogue


def run(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains what `config` describes in `workdir`, or continues there; returns the final result.

    The initial state is the latest checkpoint of the workdir, else that of `config.init_from`, else a fresh one, with
    the backbone of `config.model.backbone.pretrained` where that is given; a line says which, and `initial.json` what
    was loaded. A finished run is not trained again, its result is returned.

    Returns:
      The JSON object of the final evaluation (see `evaluation.tables.to_json`).

    Raises:
      UserError: a mistake in config, data or workdir, before anything is written; a loss or an evaluation that is not
        finite, or a disk that is full, after which the last good checkpoint is still there.
      Stopped: SIGTERM or SIGINT came; the last step is saved, unless SIGINT came twice.
    """
    workdir, asked = Path(workdir), configs.with_folder(config)
    config = catalogue.apply(asked, known_before(asked, workdir))
    processes.initialize_distributed(config.distributed)
    processes.check_same_run(config, workdir)
    if (result := _finished(config, workdir)) is not None:
        logging.info("%s is finished; its result:", workdir)
        return result

    # Before the data, which take longer to look at.
    configs.check_values(config)
    hook_classes = [*HOOKS, *classes_of(config)]
    given = None if has_checkpoint(workdir) else read_given(config)
    train_source = load_source(config.data, config.data.train_split)
    eval_source = load_source(config.data, config.data.eval_split)
    left_out(config, train_source.info.class_names)
    info, sources = train_source.info, {"training": train_source, "validation": eval_source}
    processes.check_same_inputs(sources, given and given.record)
    read: dict[str, Listing] = {split: {} for split in sources}
    train = make_run(config, len(info.class_names), lambda: _surveyed_weights(config, workdir, sources, read))
    initial = given and fit_given(given, train.model, train.abstract, info.outputs)
    if initial:
        config, initial = initial.prepared(asked)
    logging.info(
        "%d training and %d validation images, %d classes, %.2f M parameters, %d %s device(s) by %s",
        len(train_source), len(eval_source), len(info.class_names), _millions(train.abstract.params),
        jax.device_count(), jax.default_backend(), config.parallel,
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(_with_space(workdir))
        stack.enter_context(_saying_what_is_kept(workdir))
        stack.enter_context(_own_workdir(config, workdir))
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints", keep=config.train.keep))
        state = initial_state(
            checkpoints,
            train.parallel.abstract_state(train.abstract),
            partial(train.parallel.create_state, train.create),
            initial,
            workdir,
        )
        start = int(state.step)
        continued.check_config(config, workdir, start)
        continued.check_data(workdir, start, sources, read, hashed=config.data.check)
        _write_config(config, workdir)
        training = Training(config, workdir, eval_source, checkpoints, start)
        hooks = stack.enter_context(Hooks(training, hook_classes))
        batches = train_batches(
            train_source, config.data, batch_size=config.train.batch_size, seed=config.seed, start_step=start,
            multiple=crop_multiple(config, train.model),
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip
        stack.enter_context(closing(batches))
        stops = stack.enter_context(stop_requests(config.train.max_minutes))
        stack.enter_context(processes.failing_together())
        steps = Steps(config, train, eval_source, checkpoints, hooks, stops)
        last, evaluation = steps.run(state, training.waits(batches))
        checkpoints.prune()
        hooks(Hook.after_training)
        return _finish(config, workdir, last, info.class_names, evaluation)


def _surveyed_weights(
    config: ConfigDict, workdir: Path, sources: Mapping[str, Source], read: Mapping[str, Listing]
) -> np.ndarray | None:
    """Class weights, after every file was read once, and added to `read`, where the config asks for it."""

    def surveyed(split: str) -> Survey:
        # As they are read later on: validation takes them whole.
        source = training_samples(sources[split], config.data) if split == "training" else sources[split]
        return survey(source, on_read=adding_to(read[split], source))

    training, validation = sources["training"], sources["validation"]
    # `Path.exists` raises where a name is too long for the system.
    check = config.data.check and not os.path.exists(workdir / "config.json")
    counts = None
    if config.loss.class_weights == "median_frequency" or check:
        counts = surveyed("training")
        if check:
            check_classes(training, counts)
        elif absent := absent_classes(training, counts):
            logging.warning("no pixel of the training masks is %s, which cannot be learned", absent)
    if check and (absent := absent_classes(validation, surveyed("validation"))):
        logging.warning("no pixel of the %s masks is %s: no score tells of it", config.data.eval_split, absent)
    info = training.info
    return class_weights(config.loss, info.class_names, counts, multilabel=info.multilabel)


def _millions(params: Any) -> float:
    return sum(np.prod(x.shape) for x in jax.tree.leaves(params)) / 1e6


@contextmanager
def _with_space(workdir: Path) -> Iterator[None]:
    """One line about a disk that is full, whichever file met it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not (reason := out_of_space(error)):
            if isinstance(error, OSError) and str(error.filename).startswith(str(workdir)):
                raise UserError(
                    f"--workdir={workdir}: {error.filename} cannot be used ({error.strerror}): remove it, or choose "
                    "another one"
                ) from error
            raise
        latest = _latest(workdir)
        where = "" if latest is None else f", step {latest}"
        raise UserError(
            f"--workdir={workdir}: a file cannot be written ({reason}): make room, and the same command continues from "
            f"its latest checkpoint{where}"
        ) from None


@contextmanager
def _saying_what_is_kept(workdir: Path) -> Iterator[None]:
    """Where Ctrl-C ends the training at once."""
    try:
        yield
    except KeyboardInterrupt:
        latest = _latest(workdir)
        kept = "nothing is saved yet, the same command starts anew"
        if latest is not None:
            kept = f"the checkpoint of step {latest} is kept, the same command continues there"
        raise Stopped(f"at once by a signal (SIGINT); {kept}", signal.SIGINT) from None


def _latest(workdir: Path) -> int | None:
    try:
        with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
            return checkpoints.latest_step()
    except UserError:
        return None


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
    if path.exists() and path.read_bytes() != text.encode():
        for line in configs.differences(configs.resolve(configs.load(workdir)), configs.resolve(config)):
            logging.warning("this run continues with another config: %s", line)
    # The result of another config, or none; it must not outlive the config that it belongs to.
    (workdir / "result.json").unlink(missing_ok=True)
    write_atomically(path, text.encode())


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
        result = json.loads((workdir / "result.json").read_text())
    except (OSError, ValueError):
        same, result = False, None
    # Other processes may have other values in keys that belong to a host; all have to go the same way.
    if of_process_0(str(same)) != "True":
        return None
    # A damaged one is found again.
    return result if isinstance(result, dict) and {"split", "step", "miou", "iou"} <= result.keys() else None
