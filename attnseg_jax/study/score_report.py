"""The report of an evaluation, as a page of HTML and as JSON, in a folder."""

import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
from absl import logging
from PIL import Image

from attnseg_jax.evaluation.counts import iou
from attnseg_jax.evaluation.tables import number
from attnseg_jax.files import write_atomically
from attnseg_jax.inference.evaluation import Result, charts
from attnseg_jax.inference.restore import make_restored_look
from attnseg_jax.ops.metrics import mean_of_known
from attnseg_jax.plots import explained, score_page, segmentation
from attnseg_jax.plots.drawing import rendered
from attnseg_jax.plots.explained import Explained
from attnseg_jax.plots.look import look_data
from attnseg_jax.study.bootstrap import interval
from attnseg_jax.train.initial import read_record


def write_report(result: Result, folder: Path, workdir: Path | None) -> None:
    """Writes `index.html` and `scores.json` into `folder`.

    Args:
      result: of an evaluation for a report.
      folder: for both.
      workdir: of the run, whose curves are shown; None of masks.
    """
    if jax.process_index() != 0:
        return
    scores, info = result.evaluation.scores, result.source.info
    name = f"{workdir.name}, step {result.step}" if workdir else "masks"
    pictures: dict[str, Image.Image] = {}
    if workdir and (workdir / "curves.png").exists():
        with Image.open(workdir / "curves.png") as curves:
            pictures["training"] = curves.convert("RGB")
    pictures |= {title: rendered(chart) for title, chart in charts(result).items()}
    page = score_page.page(
        f"{name}, {result.split}",
        scores,
        info.class_names,
        info.palette,
        interval=interval(scores.counted),
        charts=pictures,
        mistakes=result.mistakes,
        suspects=_suspects(result),
        images=[] if scores.multilabel else _images(result),
        sheets=_sheets(result) if scores.multilabel else [],
        facts=_facts(result, workdir),
    )
    write_atomically(folder / "scores.json", (result.json + "\n").encode())
    write_atomically(folder / "index.html", page.encode())
    logging.info("report: %s", folder / "index.html")


def _suspects(result: Result) -> list[tuple[str, Image.Image]]:
    """A picture of each suspect label, and what it is."""
    names, found = result.source.info.class_names, []
    for one in result.mistakes.suspects if result.mistakes else []:
        record = result.source[one.index]
        title = (
            f"{record['id']}, row {one.top}, column {one.left}: {one.pixels} pixels labelled {names[one.label]}, "
            f"{names[one.predicted]} by the model, {one.confidence:.0%} sure"
        )
        found.append((title, explained.suspect_picture(one, result.source.info.shown(record["image"]))))
    return found


def _chosen(result: Result) -> dict[int, tuple[str, np.ndarray]]:
    """The worst images, the best, then samples of all: why each, and its prediction."""
    found, chosen = result.evaluation, {}
    groups = {"among the worst": found.worst, "among the best": found.best, "sample": found.samples}
    for kind, predictions in groups.items():
        chosen |= {index: (kind, mask) for index, mask in predictions.items() if index not in chosen}
    return chosen


def _sheets(result: Result) -> list[tuple[str, Image.Image]]:
    """Images, with truth, prediction and errors beside each other."""
    info, found = result.source.info, []
    for index, (kind, prediction) in _chosen(result).items():
        record = result.source[index]
        image = info.shown(record["image"])
        sheet = segmentation.prediction_picture(
            [image], [record["label"]], [prediction], info.class_names, info.palette, titles=[record["id"]]
        )
        found.append((f"{record['id']}, {kind}", sheet))
    return found


def _images(result: Result) -> list[Explained]:
    scores, chosen = result.evaluation.scores, _chosen(result)
    # The arrays of a model on several machines cannot be used by one of them.
    look = make_restored_look(result.run) if result.run and jax.process_count() == 1 else None
    images = []
    for index, (kind, prediction) in chosen.items():
        record = result.source[index]
        miou = number(mean_of_known(iou(scores.counted[index])))
        title = f"{record['id']}, {kind}: mIoU {miou}"
        truth, sure, data = record["label"], None, {}
        if look:
            sure, records, covered = look(record)
            data = look_data(records, covered, truth, prediction, sure)
        image = result.source.info.shown(record["image"])
        images.append(Explained(title, image, truth, prediction, sure, data))
    return images


def _facts(result: Result, workdir: Path | None) -> dict[str, str]:
    config = result.config
    pixels = int(result.evaluation.scores.confusion.sum())
    facts = {
        "data": f"{config.data.name or config.data.dir}, {result.split}, {len(result.source)} images, "
        f"{result.source.info.num_classes} classes, {pixels:,} pixels with a class",
        "licence of the data": "that of its source, which a run does not know",
    }
    if workdir:
        model = config.model
        parts = [getattr(model, part).name for part in ("backbone", "attention", "decoder")]
        facts["model"] = f"{model.kind}: {', '.join(parts)}"
        record = read_record(workdir)
        if model.backbone.pretrained:
            facts["weights from"] = model.backbone.pretrained
            facts["licence of the weights"] = record.get("licence") or "unknown"
    facts["command"] = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    facts["commit"] = _commit()
    versions = {name: metadata.version(name) for name in ("jax", "flax", "numpy")}
    versions["python"] = platform.python_version()
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return facts


def _commit() -> str:
    """The commit of the package's checkout."""
    folder = Path(__file__).parents[2]
    try:
        found = [
            subprocess.run(["git", "-C", folder, *what], capture_output=True, text=True, check=True).stdout.strip()
            for what in (["rev-parse", "--show-toplevel"], ["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "none: the package is no checkout"
    # An installed package may lie in the checkout of something else.
    if Path(found[0]).resolve() != folder.resolve():
        return "none: the package is no checkout"
    return found[1] + (", with changes" if found[2] else "")
