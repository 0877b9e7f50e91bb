"""Tables as plain text and as Markdown, numbers in them, and scores as a table for people and as JSON for programs."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from attnseg_jax.evaluation.scores import Scores


def text_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a plain-text table: titles, then the rows, the first column on the left and the others on the right.

    A row may have fewer cells than there are titles; such a row makes no column but the first wider, so that its last
    cell may be a sentence.

    >>> print(*text_table(["name", "GFLOP", "ms"], [["none", "0", "1.5"], ["self", "needs two channels"]]), sep="\\n")
    name  GFLOP   ms
    none      0  1.5
    self  needs two channels
    """
    lines = [titles, *rows]
    full = [line for line in lines if len(line) == len(titles)]
    first = max(len(line[0]) for line in lines)
    widths = [max(map(len, column)) for column in zip(*full)][1:]
    return [
        "  ".join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], widths))])
        for line in lines
    ]


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table: titles, the rule below them, the rows."""
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def short(value: float | None) -> str:
    """A number with at least three significant digits and no more than needed; `-` for None.

    >>> short(0.012345), short(12.345), short(1234.5), short(0), short(None)
    ('0.0123', '12.3', '1,234', '0', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def finite(value: Any) -> float | None:
    """A number (or 0-d array) as JSON can hold it: NaN and infinities become None.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    value = float(value)
    return value if math.isfinite(value) else None


def fewer_classes(iou: Mapping[str, float | None], left_out: Collection[str] = ()) -> str:
    """Over how many classes a mean IoU is taken, where that is not all of them: else "".

    Args:
      iou: of each class by its name; NaN or None for one that is neither in truth nor in prediction.
      left_out: names of classes that the mean leaves out by choice (`config.eval.ignore_classes`).

    >>> fewer_classes({"sky": 0.7, "road": 0.8, "tram": None}), fewer_classes({"sky": 0.7, "road": 0.8})
    ('2 of 3 classes: tram is absent', '')
    >>> fewer_classes({"sky": 0.7, "road": 0.8, "tram": None}, ["sky"])
    '1 of 3 classes: tram is absent, sky is left out'
    """
    absent = [name for name, value in iou.items() if (value is None or math.isnan(value)) and name not in left_out]
    kept = len(iou) - len(absent) - len(left_out)
    if kept in (0, len(iou)):
        return ""
    reasons = {"absent": absent, "left out": [*left_out]}
    words = ", ".join(f"{_some(names)} {why}" for why, names in reasons.items() if names)
    return f"{kept} of {len(iou)} classes: {words}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def mean_iou(miou: float | None, iou: Mapping[str, float | None], left_out: Collection[str] = ()) -> str:
    """A mean IoU in words, with the worst class; "absent" for none.  `iou` and `left_out` as in `fewer_classes`.

    >>> mean_iou(0.75, {"sky": 0.7, "road": 0.8, "tram": None}), mean_iou(None, {})
    ('0.7500 (2 of 3 classes: tram is absent; lowest: sky 0.7000)', 'absent')
    """
    known = {
        name: value
        for name, value in iou.items()
        if name not in left_out and value is not None and not math.isnan(value)
    }
    lowest = min(known, key=known.__getitem__) if len(known) > 1 else ""
    words = [fewer_classes(iou, left_out), f"lowest: {lowest} {number(known[lowest])}" if lowest else ""]
    said = "; ".join(filter(None, words))
    return number(math.nan if miou is None else miou) + (f" ({said})" if said else "")


def mean_of(scores: Scores, class_names: Sequence[str]) -> str:
    """The mean IoU of scores in words, see `mean_iou`."""
    return mean_iou(scores.miou, dict(zip(class_names, scores.iou)), left_out(scores, class_names))


def left_out(scores: Scores, class_names: Sequence[str]) -> list[str]:
    """The names of the classes that count in no mean."""
    return [class_names[k] for k in scores.left_out]


OVERALL = {
    "mIoU": "miou",
    "frequency-weighted IoU": "frequency_weighted_iou",
    "mean Dice": "mean_dice",
    "pixel accuracy": "pixel_accuracy",
    "class accuracy": "class_accuracy",
    "boundary mIoU": "boundary_miou",
    "mean boundary F": "mean_boundary_f",
    "calibration error": "calibration_error",
}
"""The scores of a whole split: title -> attribute of `Scores`."""

_MEANS = ("miou", "pixel_accuracy", "class_accuracy", "frequency_weighted_iou", "mean_dice")


def table(scores: Scores, class_names: Sequence[str], best: Mapping[str, Any] | None = None) -> str:
    """Plain text: a line per class (IoU, Dice, precision, accuracy, share of the true pixels), then the overall scores.

    A score that no pixel decides reads "absent"; a class that is predicted but never true has IoU 0. Boundary scores
    and calibration error are there where they were measured. The scores of the `best` step, in the form of `to_json`,
    stand beside those.

    >>> import numpy as np
    >>> print(table(Scores.from_confusion(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])), ["sky", "road", "tram"]))
    class                      IoU    Dice  precision  accuracy  pixels
    sky                     0.7500  0.8571     1.0000    0.7500   50.0%
    road                    0.8000  0.8889     0.8000    1.0000   50.0%
    tram                    absent  absent     absent    absent    0.0%
    -------------------------------------------------------------------
    mIoU                    0.7750
    frequency-weighted IoU  0.7750
    mean Dice               0.8730
    pixel accuracy          0.8750
    class accuracy          0.8750
    mIoU of 2 of 3 classes: tram is absent
    """
    columns = {"IoU": map(number, scores.iou)}
    if best:
        columns[f"step {best['step']}"] = [number(best["iou"].get(name)) for name in class_names]
    columns |= {
        "Dice": map(number, scores.dice),
        "precision": map(number, scores.precision),
        "accuracy": map(number, scores.accuracy),
        "pixels": map(_percent, scores.share),
    }
    overall = dict(OVERALL)
    if scores.images is None:
        del overall["boundary mIoU"]
    else:
        columns["boundary"] = map(number, scores.boundary_iou)
    if scores.images is None or scores.images.contours is None:
        del overall["mean boundary F"]
    else:
        columns["boundary F"] = map(number, scores.boundary_f)
    if scores.confidence is None:
        del overall["calibration error"]
    totals = [
        [title, number(getattr(scores, key)), *([number(best.get(key))] if best else [])]
        for title, key in overall.items()
    ]
    classes = zip(class_names, *columns.values(), strict=True)
    lines = text_table(["class", *columns], [*classes, *totals])
    lines.insert(1 + len(class_names), "-" * len(lines[0]))
    if fewer := fewer_classes(dict(zip(class_names, scores.iou)), left_out(scores, class_names)):
        lines.append(f"mIoU of {fewer}")
    for k, sweep in scores.sweeps.items():
        if sweep.iou[sweep.best] > scores.iou[k]:
            at = f"{sweep.threshold[sweep.best]:.2f}"
            lines.append(f"{class_names[k]}: IoU {number(sweep.iou[sweep.best])} with config.eval.threshold={at}")
    return "\n".join(lines)


def to_json(split: str, step: int | None, scores: Scores, class_names: Sequence[str]) -> str:
    """One line of JSON: split, step (null of masks without a model), the overall scores, those of each class by name.

    `boundary_miou`, `boundary_iou`, `mean_boundary_f` and `boundary_f` are there where the images were counted,
    `calibration_error` where it was measured, with `best_threshold` and `best_threshold_iou` of classes that have one,
    `left_out` where classes count in no mean. NaN is null.
    """
    values = {
        "split": split,
        "step": None if step is None else int(step),
        **{name: finite(getattr(scores, name)) for name in _MEANS},
        **{name: _by_name(getattr(scores, name), class_names) for name in ("iou", "dice", "precision", "accuracy")},
    }
    if scores.images is not None:
        values["boundary_miou"] = finite(scores.boundary_miou)
        values["boundary_iou"] = _by_name(scores.boundary_iou, class_names)
        if scores.images.contours is not None:
            values["mean_boundary_f"] = finite(scores.mean_boundary_f)
            values["boundary_f"] = _by_name(scores.boundary_f, class_names)
    if scores.left_out:
        values["left_out"] = left_out(scores, class_names)
    if scores.confidence is not None:
        values["calibration_error"] = finite(scores.calibration_error)
    if scores.sweeps:
        best = {class_names[k]: (sweep, sweep.best) for k, sweep in scores.sweeps.items()}
        values["best_threshold"] = {name: finite(sweep.threshold[at]) for name, (sweep, at) in best.items()}
        values["best_threshold_iou"] = {name: finite(sweep.iou[at]) for name, (sweep, at) in best.items()}
    return json.dumps(values, allow_nan=False, ensure_ascii=False)


def _by_name(values: Sequence[float], class_names: Sequence[str]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in zip(class_names, values, strict=True)}


def number(value: float | None) -> str:
    """A score with four decimals; "absent" for NaN or None."""
    return "absent" if value is None or math.isnan(value) else f"{value:.4f}"


def _percent(value: float) -> str:
    return "0.0%" if math.isnan(value) else f"{value:.1%}"
