"""How long the systems of a study take, measured one after another on one machine."""

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
from attnseg_jax.study.records import timing
from attnseg_jax.train import config as configs

# Changes of a config that leave what a step and an evaluation do.
_SHORT = {
    "train.steps": 12,
    "train.log_every": 2,
    "train.eval_every": 12,
    "optimizer.warmup_steps": 0,
    "data.check": False,
}


def shortened(run: PlannedRun) -> PlannedRun:
    """A run of a few steps and an evaluation, as long as those of `run`."""
    config = run.config.copy_and_resolve_references()
    config.update_from_flattened_dict(_SHORT)
    return replace(run, changes={**run.changes, **_SHORT}, config=config, key=configs.config_hash(config))


def warm(runs: Sequence[PlannedRun]) -> None:
    """Reads all images of the runs and finds their regions, so that none has to do that while it is timed."""
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
    """Trains a shortened run in a folder of its own, which is deleted then, and returns its times.

    Args:
      short: the run, from `shortened`.
      workdir: its folder; what an earlier call left there is deleted first.
      log, held, on_wait: as of `study.train`.

    Raises:
      UserError: it broke, or the folder cannot be deleted.
    """
    _delete(workdir)
    try:
        _, error = entries.train(short, workdir, log, held, on_wait)
        if error:
            raise UserError(f"--time: {short} broke, no time is kept: {error} (see {log})")
        times = timing(workdir)
        # The most that a long run holds is more.
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
