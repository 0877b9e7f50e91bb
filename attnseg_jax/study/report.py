"""What a study writes when its runs are finished: costs, tables, plots and sheets of predictions."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jax
from absl import logging

from attnseg_jax import cost
from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError
from attnseg_jax.files import write_atomically
from attnseg_jax.plots import charts, segmentation
from attnseg_jax.study.entries import PlannedRun
from attnseg_jax.study.records import Results
from attnseg_jax.study.summary import (
    Row,
    classes_to_markdown,
    comparisons,
    comparisons_to_markdown,
    confidences,
    summarize,
    summarize_records,
    to_markdown,
)
from attnseg_jax.train.setup import abstract_inputs, make_model

COSTS = {
    "flops": ("GFLOP, a crop forward", 1e-9),
    "temp_bytes": ("MiB, its gradient's memory", 2**-20),
    "step_seconds": ("seconds a training step", 1.0),
    "image_seconds": ("seconds an image at evaluation", 1.0),
}


def add_costs(runs: Sequence[PlannedRun], results: Results) -> None:
    """Measures the costs that records of finished runs lack; the runs of one label share theirs."""
    known = {run.entry.label: record["cost"] for run in runs if "cost" in (record := results.finished(run) or {})}
    for run in runs:
        record, label = results.finished(run), run.entry.label
        if record is None or "cost" in record:
            continue
        if label not in known:
            logging.info("%s: measuring what its model costs", label)
            try:
                model = make_model(run.config, len(record["result"]["iou"]))
                known[label] = asdict(cost.module_cost(model, *abstract_inputs(run.config), input_gradient=False))
            except Exception as error:
                # The scores are there; a cost that cannot be measured must not hide them.
                logging.warning("%s: no cost (%s: %s)", label, type(error).__name__, error)
                continue
            finally:
                jax.clear_caches()
        results.add_cost(run, known[label])


def write_report(runs: Sequence[PlannedRun], results: Results, folder: Path) -> str:
    """Writes tables, plots and a sheet beside the results file.

    Args:
      runs: the runs of the study, finished or not.
      results: their records.
      folder: for `sheet.png`, which also has the photographs; the owner of a data set may forbid passing them on.

    Returns:
      The text of the tables.
    """
    rows = summarize(runs, results)
    missing = [(run, results.records.get(run.key, {})) for run in runs if not results.finished(run)]
    failures = [(str(run), record["error"]) for run, record in missing if "error" in record]
    if len(missing) > len(failures):
        failures.append((f"{len(missing) - len(failures)} more", "not trained yet"))
    text = _write(rows, failures, results)
    if rows:
        _draw_sheets([row["label"] for row in rows], runs, results, folder)
    return text


def redraw(results: Results) -> str:
    """Writes tables and plots again, from the records alone; returns the text of the tables."""
    failed = [record for record in results.records.values() if "error" in record]
    failures = [(f"{record['label']} seed {record['seed']}", record["error"]) for record in failed]
    return _write(summarize_records(results), failures, results)


def _write(rows: Sequence[Row], failures: Sequence[tuple[str, str]], results: Results) -> str:
    text = "\n\n".join([to_markdown(rows, failures), *_details(rows, results)])
    write_atomically(results.path.with_suffix(".md"), (text + "\n").encode())
    if rows:
        charts.score_against_cost(rows, COSTS, results.path.with_suffix(".png"))
    return text


def _details(rows: Sequence[Row], results: Results) -> list[str]:
    """The tables that need the counts of images; draws the plot of the comparisons."""
    counted = [row for row in rows if row["counts"]]
    if not counted:
        return []
    texts = [classes_to_markdown(counted)]
    try:
        pairs = comparisons(counted)
    except ValueError as error:
        logging.warning("no bootstrap: %s", error)
        return texts
    if pairs:
        charts.confidence_matrix(
            [row["label"] for row in counted], confidences(pairs), results.beside("_bootstrap.png")
        )
        texts.append(comparisons_to_markdown(pairs))
    return texts


def _draw_sheets(labels: Sequence[str], runs: Sequence[PlannedRun], results: Results, folder: Path) -> None:
    """Draws the copied predictions of all labels, without the photographs and with them."""
    first = {run.entry.label: run for run in reversed(runs)}
    kept = {label: files for label in labels if (files := results.predictions(first[label]))}
    if not kept:
        return
    places = sorted(set.intersection(*map(set, kept.values())))
    config = first[next(iter(kept))].config.data
    try:
        source = load_source(config, config.eval_split)
        records = [source[place] for place in places if place < len(source)]
    except UserError as error:
        logging.warning("no picture sheets, for want of the data: %s", error)
        return
    truths = [record["label"] for record in records]
    columns = {label: [segmentation.read_label_map(files[place]) for place in places] for label, files in kept.items()}
    if not truths or any([m.shape for m in maps] != [t.shape for t in truths] for maps in columns.values()):
        logging.warning("no picture sheets: the kept predictions are not of the same images")
        return
    for path, images in (
        (results.beside("_sheet.png"), None),
        (folder / "sheet.png", [source.info.shown(record["image"]) for record in records]),
    ):
        segmentation.comparison_sheet(
            truths,
            columns,
            source.info.class_names,
            source.info.palette,
            path,
            images=images,
            titles=[record["id"] for record in records],
        )
