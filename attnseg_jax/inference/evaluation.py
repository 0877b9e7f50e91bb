"""Scores of a run that is read back, on any split."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from absl import logging

from attnseg_jax.errors import NotFinite, UserError
from attnseg_jax.evaluation import tables
from attnseg_jax.files import expanded, target
from attnseg_jax.inference.restore import restore_run
from attnseg_jax.train.evaluation import draw_samples, evaluate_split


@dataclass(frozen=True)
class Result:
    """What `evaluate_run` found: scores as a table and as one line of JSON, and where the samples were drawn."""

    table: str
    json: str
    picture: Path


def evaluate_run(
    workdir: str | None,
    split: str = "val",
    checkpoint: str = "latest",
    data_dir: str | None = None,
    picture: str | None = None,
    distributed: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Result:
    """Restores a run and scores a split; errors as in `restore_run`.

    Args:
      workdir, split, checkpoint, data_dir, distributed, changes: as in `restore_run`.
      picture: PNG for the samples; by default `WORKDIR/eval/SPLIT_STEP.png`.
    """
    run = restore_run(
        workdir, split=split, checkpoint=checkpoint, data_dir=data_dir, distributed=distributed, changes=changes
    )
    path = expanded(picture or Path(workdir) / "eval" / f"{run.split}_{run.step}.png")
    drawn = run.config.eval.samples + run.config.eval.worst > 0
    if drawn:
        target("--picture", path)
    try:
        found = evaluate_split(run.config, run.model, run.parallel, run.variables, run.source)
    except NotFinite as error:
        raise UserError(f"step {run.step} of {workdir}: {error}") from None
    if drawn and jax.process_index() == 0:
        draw_samples(found, run.source, path, run.step)
        logging.info("picture: %s", path)
    scores = found.scores
    names = run.source.info.class_names
    return Result(tables.table(scores, names), tables.to_json(run.split, run.step, scores, names), path)
