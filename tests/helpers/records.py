"""Studies without trainings: planned runs, workdirs as finished runs leave them, records of them."""

import json
from pathlib import Path

import numpy as np

from attnseg_jax.evaluation.counts import ImageCounts
from attnseg_jax.plots.segmentation import write_label_map
from attnseg_jax.study import entries
from attnseg_jax.study.entries import Entry
from attnseg_jax.study.records import Results

DEFAULT = str(Path(__file__).parents[2] / "configs/default.py")
CLASSES = 5
PALETTE = np.arange(3 * CLASSES, dtype=np.uint8).reshape(CLASSES, 3)


def plan(tmp_path, labels, seeds=(0, 1), **changes):
    """The runs of entries that differ by the width of the backbone."""
    systems = [
        Entry(label, {"model.backbone.tiny.width": 8 + i, **changes}, DEFAULT, seeds) for i, label in enumerate(labels)
    ]
    return entries.plan(systems, tmp_path)


def counts(quality, seed, images=5):
    """Counts of a system that finds that share of the pixels, of the same images for all."""
    truth = np.random.default_rng(0).integers(1, 300, (2, images, CLASSES))
    hits = np.random.default_rng(seed).binomial(truth, quality)
    return ImageCounts(*np.stack([hits, (truth - hits)[..., ::-1], truth - hits], -1))


def finish(workdir, quality=0.5, seed=0, *, maps=(), timed=True, counted=True):
    """Fills the workdir of a finished run; returns its counts."""
    found = counts(quality, seed)
    workdir.mkdir(parents=True)
    names = [f"c{k}" for k in range(CLASSES)]
    result = {
        "split": "val", "step": 6, "miou": float(found.iou.mean()), "pixel_accuracy": quality,
        "iou": dict(zip(names, found.iou.tolist())),
    }  # fmt: skip
    if counted:
        result["boundary_miou"] = float(found.boundary_iou.mean())
        (workdir / "counts.json").write_text(json.dumps(found.encode()))
    (workdir / "result.json").write_text(json.dumps(result))
    write_lines(
        workdir / "metrics.jsonl",
        *({"step": step, "loss": 1.0} for step in (2, 4, 6)),
        {"step": 3, "val_miou": quality / 2},
        {"step": 6, "val_miou": result["miou"]},
    )
    if timed:
        write_lines(
            workdir / "timing.jsonl",
            {"step": 3, "image_seconds": None, "peak_bytes": 2**20},
            {"step": 4, "step_seconds": 2.0},
            {"step": 6, "step_seconds": 4.0},
            {"step": 6, "image_seconds": 0.5, "peak_bytes": 2**21},
        )
    for place, labels in maps:
        write_label_map(labels, PALETTE, workdir / "maps" / f"{place}.png")
    return found


def write_lines(path, *values):
    """Writes JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def results_of(runs, tmp_path, qualities, **options):
    """The results of finished runs, by the quality of their labels, and the counts by the runs' names."""
    results, found = Results(tmp_path / "r.json"), {}
    for run in runs:
        workdir = tmp_path / "runs" / run.name
        found[run.name] = finish(workdir, qualities[run.entry.label], run.seed + 10 * len(found), **options)
        results.add_result(run, workdir, 30.0)
    return results, found
