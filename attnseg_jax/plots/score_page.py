"""The report of an evaluation: one page of HTML that needs no network."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from PIL import Image

from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.evaluation.tables import OVERALL, fewer_classes, left_out, number
from attnseg_jax.ops.metrics import ratio
from attnseg_jax.plots.html import bar, document, figure, swatch, table, text

_CONFUSIONS = 12
_WIDEST = 1280


def page(
    title: str,
    scores: Scores,
    class_names: Sequence[str],
    palette: Int[np.ndarray, "k 3"],
    *,
    interval: tuple[float, float],
    charts: Mapping[str, Image.Image],
    images: Sequence[tuple[str, Image.Image]],
    facts: Mapping[str, str],
) -> str:
    """The page.

    Args:
      title: of it.
      scores: of the split, with the counts of its images.
      class_names: of the classes.
      palette: their colours, 0 to 255.
      interval: of the mIoU, 95 %.
      charts: by their titles.
      images: rows of image, truth, prediction and errors with their titles.
      facts: of the run, its data and how the page was made.
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
        "<h2>What is taken for what</h2>",
        _confusions(scores.confusion, class_names),
        "<h2>Charts</h2>",
        *(figure(name, chart) for name, chart in charts.items()),
        "<h2>Images</h2><p>Input, truth, prediction, errors.</p>" if images else "",
        *(figure(name, _small(picture), photo=True) for name, picture in images),
        "<h2>Run and data</h2>",
        table(("", ""), [(text(name), f"<code>{text(value)}</code>") for name, value in facts.items()]),
    ]
    return document(title, parts)


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
            _percent(scores.share[k]),
        )
        for k in order
    ]
    heads = ("class", "IoU", "", "Dice", "precision", "accuracy", "boundary IoU", "pixels")
    return table(heads, rows, numbers=(1, 3, 4, 5, 6, 7))


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


def _small(picture: Image.Image) -> Image.Image:
    if picture.width > _WIDEST:
        picture = picture.resize((_WIDEST, round(picture.height * _WIDEST / picture.width)), Image.Resampling.LANCZOS)
    return picture


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
