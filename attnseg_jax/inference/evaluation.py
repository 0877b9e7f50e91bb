"""Scores of a run that is read back, or of masks on disk, on any split, and what is drawn of them."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from absl import logging
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from attnseg_jax.data.sources import Source, load_source
from attnseg_jax.errors import NotFinite, UserError
from attnseg_jax.evaluation import tables
from attnseg_jax.evaluation.calibration import calibration
from attnseg_jax.evaluation.counts import iou
from attnseg_jax.evaluation.mistakes import Mistakes
from attnseg_jax.files import expanded, target, write_atomically
from attnseg_jax.inference.masks import evaluate_masks
from attnseg_jax.inference.restore import Restored, restore_run
from attnseg_jax.ops.metrics import mean_of_known, ratio
from attnseg_jax.plots import score_charts
from attnseg_jax.plots.drawing import write_png
from attnseg_jax.train.evaluation import Evaluation, draw_samples, evaluate_split, over_processes
from attnseg_jax.weights import catalogue


@dataclass(frozen=True, eq=False)
class Result:
    """What was found of a split.

    Attributes:
      config: of the run; of masks, of the data.
      evaluation: scores, and the predictions of some images.
      source: the split.
      split: its name.
      step: of the checkpoint; None of masks.
      picture: where the samples were drawn; the other files lie beside it.
      mistakes: of all images, where a report was asked for.
      run: the model, where a report was asked for.
    """

    config: ConfigDict
    evaluation: Evaluation
    source: Source
    split: str
    step: int | None
    picture: Path
    mistakes: Mistakes | None = None
    run: Restored | None = None

    @property
    def table(self) -> str:
        """The scores as a table."""
        return tables.table(self.evaluation.scores, self.source.info.class_names)

    @property
    def json(self) -> str:
        """The scores as one line of JSON."""
        return tables.to_json(self.split, self.step, self.evaluation.scores, self.source.info.class_names)


def evaluate_run(
    workdir: str | None,
    split: str = "val",
    checkpoint: str = "latest",
    data_dir: str | None = None,
    picture: str | None = None,
    distributed: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
    *,
    report: bool = False,
) -> Result:
    """Restores a run and scores a split; errors as in `restore_run`.

    Args:
      workdir, split, checkpoint, data_dir, distributed, changes: as in `restore_run`.
      picture: PNG for the samples; by default `WORKDIR/eval/SPLIT_STEP.png`, for a published model below a folder of
        its name. Beside it are drawn the confusion of
        classes (`_confusion.png`) and the calibration (`_calibration.png`), and the scores of each image are listed
        (`.csv`); nothing at all where the config asks for no samples.
      report: also finds what a report shows of the images.
    """
    run = restore_run(
        workdir, split=split, checkpoint=checkpoint, data_dir=data_dir, distributed=distributed, changes=changes
    )
    known = catalogue.entry(str(workdir))
    path = expanded(picture or Path(known[0] if known else workdir) / "eval" / f"{run.split}_{run.step}.png")
    _check_target(run.config, path)
    mistakes = _mistakes(run.source) if report else None
    try:
        found = evaluate_split(run.config, run.model, run.parallel, run.variables, run.source, mistakes=mistakes)
    except NotFinite as error:
        raise UserError(f"step {run.step} of {workdir}: {error}") from None
    if mistakes:
        mistakes.kinds = over_processes(mistakes.kinds)
    result = Result(run.config, found, run.source, run.split, run.step, path, mistakes, run if report else None)
    _draw(result)
    return result


def evaluate_predictions(
    folder: str,
    config: ConfigDict,
    split: str = "val",
    picture: str | None = None,
    *,
    raw_ids: bool = False,
    report: bool = False,
) -> Result:
    """Scores the masks of a folder, see `masks.evaluate_masks`, against a split of the data of `config`.

    `picture` and `report` are as in `evaluate_run`, the former by default `FOLDER_scores/SPLIT.png`.
    """
    split = config.data.eval_split if split == "val" else split
    # Not among the masks.
    folder = expanded(folder)
    path = expanded(picture or folder.with_name(f"{folder.name}_scores") / f"{split}.png")
    source = load_source(config.data, split)
    _check_target(config, path)
    mistakes = _mistakes(source) if report else None
    found = evaluate_masks(folder, config, source, raw_ids=raw_ids, mistakes=mistakes)
    result = Result(config, found, source, split, None, path, mistakes)
    _draw(result)
    return result


def _mistakes(source: Source) -> Mistakes:
    return Mistakes(source.info.num_classes, source.size, multilabel=source.info.multilabel)


def charts(result: Result) -> dict[str, Figure]:
    """The confusion of classes and, of a model, its calibration, by these names.

    Where classes may overlap, in the place of the confusion the scores of each by threshold.
    """
    scores, names = result.evaluation.scores, result.source.info.class_names
    found = {} if scores.multilabel else {"confusion": score_charts.confusion_matrix(scores.confusion, names)}
    if scores.confidence is not None:
        sweeps = scores.sweeps
        sweep = None if scores.multilabel else sweeps.get(1)
        found["calibration"] = score_charts.calibration_chart(calibration(scores.confidence), sweep)
        if scores.multilabel:
            found["thresholds"] = score_charts.threshold_chart({names[k]: sweeps[k] for k in sweeps})
    return found


def _draws(config: ConfigDict) -> bool:
    return config.eval.samples + config.eval.worst > 0


def _check_target(config: ConfigDict, path: Path) -> None:
    if _draws(config):
        target("--picture", path)


def _draw(result: Result) -> None:
    if not _draws(result.config) or jax.process_index() != 0:
        return
    path = result.picture
    draw_samples(result.evaluation, result.source, path, result.step)
    write_atomically(path.with_suffix(".csv"), _images_csv(result).encode())
    for ending, figure in charts(result).items():
        write_png(path.with_name(f"{path.stem}_{ending}.png"), figure)
    logging.info("pictures and the scores of each image: %s", path.with_suffix(".*"))


def _images_csv(result: Result) -> str:
    """A line for each image: name, mIoU over the classes in truth or prediction, pixel accuracy, IoU of each class."""
    counts, ids = result.evaluation.scores.images.everywhere, result.evaluation.ids
    left_out = [*result.evaluation.scores.left_out]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "miou", "pixel_accuracy", *result.source.info.class_names])
    for index, image in enumerate(counts):
        values = iou(image)
        right, missed = image[:, 0].sum(), image[:, 2].sum()
        row = [mean_of_known(np.delete(values, left_out)), float(ratio(right, right + missed)), *values]
        name = ids.get(index) or result.source[index]["id"]
        writer.writerow([name, *("" if np.isnan(value) else f"{value:.6f}" for value in row)])
    return file.getvalue()
