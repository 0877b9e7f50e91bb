"""The report of an evaluation: one page of HTML that needs no network."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image

from attnseg_jax.evaluation.error_kinds import DEFINITIONS, KINDS, OF_OVERLAPPING
from attnseg_jax.evaluation.mistakes import Mistakes
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.evaluation.suspects import SURE
from attnseg_jax.evaluation.tables import OVERALL, fewer_classes, left_out, number
from attnseg_jax.ops.metrics import ratio
from attnseg_jax.plots.explained import KIND_COLOURS, Explained, section
from attnseg_jax.plots.html import bar, document, figure, legend, swatch, table, text

_CONFUSIONS, _PAIRS = 12, 3
# Bytes of the images' sections; the rest of a page is far smaller than the 3 MB that are left to 20.
_LARGEST = 17_000_000
_SCRIPT = Path(__file__).with_name("report.js")


def page(
    title: str,
    scores: Scores,
    class_names: Sequence[str],
    palette: Int[np.ndarray, "k 3"],
    *,
    interval: tuple[float, float],
    charts: Mapping[str, Image.Image],
    mistakes: Mistakes | None,
    suspects: Sequence[tuple[str, Image.Image]],
    images: Sequence[Explained],
    facts: Mapping[str, str],
    sheets: Sequence[tuple[str, Image.Image]] = (),
) -> str:
    """The page.

    Args:
      title: of it.
      scores: of the split, with the counts of its images.
      class_names: of the classes.
      palette: their colours, 0 to 255.
      interval: of the mIoU, 95 %.
      charts: by their titles.
      mistakes: of all images; None leaves them out.
      suspects: pictures of suspect labels with what they are, the most suspect first.
      images: in their order; as many as a page of 20 MB holds.
      facts: of the run, its data and how the page was made.
      sheets: pictures of images with their truth and prediction, and what they are.
    """
    fewer = fewer_classes(dict(zip(class_names, scores.iou)), left_out(scores, class_names))
    count = len(scores.images.everywhere)
    of = f" of {text(fewer)}" if fewer else ""
    headline = (
        f"<p>mIoU <strong>{scores.miou:.4f}</strong>{of} on {count} images; on other images like these between "
        f"{interval[0]:.4f} and {interval[1]:.4f} (95 %, bootstrap over images).</p>"
    )
    parts = [
        f"<h1>{text(title)}</h1>",
        headline,
        _overall(scores),
        "<h2>Classes</h2>",
        _classes(scores, class_names, palette),
        *_thresholds(scores, class_names),
        *([] if scores.multilabel else ["<h2>What is taken for what</h2>", _confusions(scores.confusion, class_names)]),
        "<h2>Charts</h2>",
        *(figure(name, chart) for name, chart in charts.items()),
        *(["<h2>Kinds of errors</h2>", _kinds(mistakes.kinds, class_names)] if mistakes else []),
        *_suspects(suspects),
        *_images(images, class_names, palette),
        *_sheets(sheets),
        "<h2>Run and data</h2>",
        table(("", ""), [(text(name), f"<code>{text(value)}</code>") for name, value in facts.items()]),
    ]
    if not any(one.look.get("records") for one in images):
        return document(title, parts)
    names = json.dumps(list(class_names), ensure_ascii=False).replace("</", "<\\/")
    parts.append(f'<script type="application/json" id="classes">{names}</script>')
    return document(title, parts, _SCRIPT.read_text(encoding="utf-8"))


def _overall(scores: Scores) -> str:
    values = {title: getattr(scores, name) for title, name in OVERALL.items() if name != "miou"}
    rows = [(title, number(value)) for title, value in values.items() if not math.isnan(value)]
    return table(("score", ""), rows, numbers=(1,))


def _classes(scores: Scores, class_names: Sequence[str], palette: Int[np.ndarray, "k 3"]) -> str:
    """The classes, the worst first; those that are absent last."""
    order = sorted(range(len(class_names)), key=lambda k: (math.isnan(scores.iou[k]), scores.iou[k]))
    rows = [
        (
            f"{swatch(palette[k])}{text(class_names[k])}",
            number(scores.iou[k]),
            bar(scores.iou[k]),
            number(scores.dice[k]),
            number(scores.precision[k]),
            number(scores.accuracy[k]),
            number(scores.boundary_iou[k]),
            number(scores.boundary_f[k]),
            _percent(scores.share[k]),
        )
        for k in order
    ]
    heads = ("class", "IoU", "", "Dice", "precision", "accuracy", "boundary IoU", "boundary F", "pixels")
    return table(heads, rows, numbers=(1, 3, 4, 5, 6, 7, 8))


def _thresholds(scores: Scores, class_names: Sequence[str]) -> list[str]:
    """Of classes with a threshold of their own, where their IoU is highest."""
    if not scores.sweeps:
        return []
    rows = []
    for k, sweep in scores.sweeps.items():
        at = sweep.best
        values = (scores.iou[k], sweep.iou[at], sweep.precision[at], sweep.recall[at])
        rows.append((text(class_names[k]), f"{sweep.threshold[at]:.2f}", *map(number, values)))
    heads = ("class", "best threshold", "IoU now", "IoU there", "precision there", "recall there")
    note = (
        "<p>A class is predicted from a probability of <code>config.eval.threshold</code> on, one half by default. "
        "These are the multiples of 0.01 with the highest IoU on this split: what is chosen by them needs another "
        "split to be scored on.</p>"
    )
    return ["<h2>Thresholds</h2>", note, table(heads, rows, numbers=(1, 2, 3, 4, 5))]


def _sheets(sheets: Sequence[tuple[str, Image.Image]]) -> list[str]:
    return ["<h2>Images</h2>", *(figure(title, sheet, photo=True) for title, sheet in sheets)] if sheets else []


def _confusions(confusion: Int[np.ndarray, "k k"], class_names: Sequence[str]) -> str:
    """The pairs of classes with the most wrong pixels."""
    wrong = confusion - np.diag(np.diagonal(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [divmod(int(cell), len(class_names)) for cell in order if wrong.flat[cell]]
    if not pairs:
        return "<p>No pixel is wrong.</p>"
    of_all, of_class = ratio(wrong, wrong.sum()), ratio(wrong, confusion.sum(1, keepdims=True))
    rows = [
        (
            text(class_names[i]),
            text(class_names[j]),
            _percent(of_all[i, j]),
            bar(of_all[i, j]),
            _percent(of_class[i, j]),
        )
        for i, j in pairs
    ]
    return table(("true", "predicted", "of the wrong pixels", "", "of the true class"), rows, numbers=(2, 4))


def _kinds(counts: Int[np.ndarray, "e k *c"], class_names: Sequence[str]) -> str:
    """The kinds of errors, what they are, their shares, and the classes that they concern most."""
    if not counts.any():
        return ""
    overlapping = counts.ndim == 2
    definitions = OF_OVERLAPPING if overlapping else DEFINITIONS
    rows = []
    for kind, cells in zip(KINDS, counts, strict=True):
        if kind not in definitions:
            continue
        order = [int(i) for i in np.argsort(-cells, axis=None, kind="stable")[:_PAIRS] if cells.flat[i]]
        named = (" as ".join(class_names[k] for k in np.unravel_index(i, cells.shape)) for i in order)
        share = float(ratio(cells.sum(), counts.sum()))
        heading = f"{swatch(KIND_COLOURS[kind])}{kind}"
        most = "<br>".join(map(text, named))
        rows.append((heading, _percent(share), bar(share), f'<span class="name">{most}</span>'))
    wrong = "label" if overlapping else "pixel"
    note = (
        f"<p>Every wrong {wrong} is of one kind. A region is connected pixels of one class; it is found, or there, if "
        "at least a tenth of it is right.</p><ul>"
        + "".join(f"<li>{swatch(KIND_COLOURS[kind])}{kind}: {text(words)}</li>" for kind, words in definitions.items())
        + "</ul>"
    )
    most = "most" if overlapping else "most: true as predicted"
    return note + table(("kind", f"of the wrong {wrong}s", "", most), rows, numbers=(1,))


def _suspects(suspects: Sequence[tuple[str, Image.Image]]) -> list[str]:
    if not suspects:
        return []
    return [
        "<h2>Suspect labels</h2><p>The largest regions, away from boundaries, where the model is at least "
        f"{SURE:.0%} sure of another class than the truth has: look at these labels first. The model may be wrong.</p>",
        '<div class="panels">',
        *(figure(title, picture, photo=True) for title, picture in suspects),
        "</div>",
    ]


def _images(images: Sequence[Explained], class_names: Sequence[str], palette: Int[np.ndarray, "k 3"]) -> list[str]:
    """Sections of images, without those that would make the page too large."""
    if not images:
        return []
    values = np.unique(np.concatenate([np.unique(m) for one in images for m in (one.truth, one.prediction)]))
    present = [k for k in values.tolist() if k < len(class_names)]
    words = "Right pixels are gray; unknown ones striped or light."
    if any(one.look.get("records") for one in images):
        words += (
            " What a point attends to (bright yellow most): click a point in any picture, or move it with the arrow "
            "keys. Each map is the mean over the heads, made coarser, from 0 to its own largest value."
        )
    sections, size = [], 0
    for place, one in enumerate(images):
        sections.append(section(one, place, palette))
        size += len(sections[-1])
        if size > _LARGEST:
            sections[-1] = f"<p>{len(images) - place} more images do not fit into the page.</p>"
            break
    return [
        f"<h2>Images</h2><p>{words}</p>",
        legend([class_names[k] for k in present], [palette[k] for k in present]),
        legend(KIND_COLOURS, KIND_COLOURS.values()),
        *sections,
    ]


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
