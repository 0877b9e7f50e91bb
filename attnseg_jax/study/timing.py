"""How long the systems of a study take, measured by short runs one after another on one machine."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from attnseg_jax.data import regions
from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError
from attnseg_jax.study import entries
from attnseg_jax.study.entries import PlannedRun
from attnseg_jax.study.records import read_timing
from attnseg_jax.train import config as configs

# These make a run short and leave a step and an evaluation as they are.
_SHORT = {
    "train.steps": 12,
    "train.log_every": 2,
    "train.eval_every": 12,
    "optimizer.warmup_steps": 0,
    "data.check": False,
}


def shortened(run: PlannedRun) -> PlannedRun:
    """A run of 12 steps and one evaluation, each of which takes as long as those of `run`."""
    config = run.config.copy_and_resolve_references()
    config.update_from_flattened_dict(_SHORT)
    return replace(run, changes={**run.changes, **_SHORT}, config=config, key=configs.config_hash(config))


def prepare_data(runs: Sequence[PlannedRun]) -> None:
    """Reads all images of the runs and caches their regions, so that no run does so while it is timed."""
    sections = {json.dumps(run.config.data.to_dict(), sort_keys=True): run.config.data for run in runs}
    for data in sections.values():
        for split in (data.train_split, data.eval_split):
            source = load_source(data, split)
            for i in range(len(source)):
                image = source[i]["image"]
                if regions.used(data.regions):
                    regions.cached(image, data.regions)


def measure(
    short: PlannedRun, workdir: Path, log: Path, held: BinaryIO, on_wait: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Trains a shortened run and returns its times, `step_seconds` and `image_seconds`.

    Args:
      short: the run, from `shortened`.
      workdir: its folder; deleted before, should an earlier call have left it, and after.
      log, held, on_wait: as in `entries.train`.

    Raises:
      UserError: the run failed, or the folder cannot be deleted.
    """
    _delete(workdir)
    try:
        _, error = entries.train(short, workdir, log, held, on_wait)
        if error:
            raise UserError(f"--time: {short} broke, no time is kept: {error} (see {log})")
        times = read_timing(workdir)
        # A short run does not reach the peak memory of a long one.
        times.pop("peak_bytes", None)
        return times
    finally:
        _delete(workdir)


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"--time: {folder} cannot be deleted ({error.strerror})") from None
