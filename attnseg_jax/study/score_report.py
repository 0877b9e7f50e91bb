"""The report of an evaluation, as a page of HTML and as JSON, in a folder."""

import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

import jax
from absl import logging
from PIL import Image

from attnseg_jax.files import write_atomically
from attnseg_jax.inference.evaluation import Result, charts
from attnseg_jax.plots import score_page, segmentation
from attnseg_jax.plots.drawing import rendered
from attnseg_jax.study.bootstrap import interval
from attnseg_jax.train.initial import read_record


def write_report(result: Result, folder: Path, workdir: Path | None) -> None:
    """Writes `index.html` and `scores.json` into `folder`.

    Args:
      result: of the evaluation, with the counts of its images.
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
        images=_images(result),
        facts=_facts(result, workdir),
    )
    write_atomically(folder / "scores.json", (result.json + "\n").encode())
    write_atomically(folder / "index.html", page.encode())
    logging.info("report: %s", folder / "index.html")


def _images(result: Result) -> list[tuple[str, Image.Image]]:
    """The worst images, then samples of all."""
    found, info = result.evaluation, result.source.info
    chosen = {index: ("among the worst", prediction) for index, prediction in found.worst.items()}
    chosen |= {index: ("sample", prediction) for index, prediction in found.samples.items() if index not in chosen}
    pictures = []
    for index, (kind, prediction) in chosen.items():
        record = result.source[index]
        one = [info.shown(record["image"])], [record["label"]], [prediction]
        picture = segmentation.prediction_picture(*one, info.class_names, info.palette, titles=[kind])
        pictures.append((f"{record['id']}, {kind}", picture))
    return pictures


def _facts(result: Result, workdir: Path | None) -> dict[str, str]:
    config = result.config
    facts = {"data": f"{config.data.name or config.data.dir}, {result.split}, {len(result.source)} images"}
    if workdir:
        model = config.model
        parts = [getattr(model, part).name for part in ("backbone", "attention", "decoder")]
        facts["model"] = f"{model.kind}: {', '.join(parts)}"
        record = read_record(workdir)
        if model.backbone.pretrained:
            facts["weights from"] = f"{model.backbone.pretrained} ({record.get('licence') or 'licence unknown'})"
    facts["command"] = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    versions = {name: metadata.version(name) for name in ("jax", "flax", "numpy")}
    versions["python"] = platform.python_version()
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return facts
