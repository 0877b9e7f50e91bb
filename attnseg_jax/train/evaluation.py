"""Evaluation of a whole split with the steps of a run, and its picture."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from attnseg_jax.data.pipeline import eval_batches
from attnseg_jax.data.sources import Source
from attnseg_jax.infer import visualize
from attnseg_jax.infer.evaluate import Collector, Scores, evaluate
from attnseg_jax.train.logging import track
from attnseg_jax.train.parallel import Parallel


def sample_indices(length: int, samples: int) -> list[int]:
    """Evenly spread indices of the images that are drawn at each evaluation.

    >>> sample_indices(101, 4)
    [0, 33, 67, 100]
    """
    return sorted({round(i) for i in np.linspace(0, length - 1, min(samples, length))})


def evaluate_split(
    config: ConfigDict, parallel: Parallel, variables: PyTree, source: Source, *, picture: Path | None = None
) -> Scores:
    """Scores every image of `source` at full size and draws `config.eval.samples` of them to `picture`.

    Args:
      config: the run's config.
      parallel: the run's steps.
      variables: parameters and statistics to evaluate, from `Parallel.put_state` or a train step.
      source: the split.
      picture: path of a PNG, or None.
    """
    collector = Collector(sample_indices(len(source), config.eval.samples) if picture else ())
    batches = eval_batches(
        source,
        config.data,
        batch_size=config.eval.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    scores = evaluate(
        lambda batch: parallel.evaluate(variables, batch),
        batches,
        len(source.info.class_names),
        on_batch=collector,
        progress=lambda items: track(items, "evaluate"),
        # The steps add their counts over all processes themselves.
        per_process=False,
    )
    if picture and collector.predictions and jax.process_index() == 0:
        records = {index: source[index] for index in sorted(collector.predictions)}
        visualize.prediction_sheet(
            [record["image"] for record in records.values()],
            [record["label"] for record in records.values()],
            [collector.predictions[index] for index in records],
            source.info.class_names,
            source.info.palette,
            picture,
            titles=[record["id"] for record in records.values()],
        )
    return scores
