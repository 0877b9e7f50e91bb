"""Scores as a table for people and as JSON for programs."""

import json
import math
from collections.abc import Sequence
from typing import Any

from attnseg_jax.evaluation.scores import Scores


def table(scores: Scores, class_names: Sequence[str]) -> str:
    """Plain text: a line per class (IoU, accuracy, share of the true pixels), then the overall scores.

    A score that no pixel decides reads "absent"; a class that is predicted but never true has IoU 0. Boundary IoU is
    there where the images were counted.

    >>> import numpy as np
    >>> print(table(Scores.from_confusion(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])), ["sky", "road", "tram"]))
    class              IoU  accuracy  pixels
    sky             0.7500    0.7500   50.0%
    road            0.8000    1.0000   50.0%
    tram            absent    absent    0.0%
    ----------------------------------------
    mIoU            0.7750
    pixel accuracy  0.8750
    class accuracy  0.8750
    """
    _check_names(scores, class_names)
    overall = {
        "mIoU": scores.miou,
        "pixel accuracy": scores.pixel_accuracy,
        "class accuracy": scores.class_accuracy,
    }
    counted = scores.images is not None
    if counted:
        overall["boundary mIoU"] = scores.boundary_miou
    width = max(map(len, [*class_names, *overall]))
    lines = [f"{'class':<{width}}  {'IoU':>6}  {'accuracy':>8}  {'pixels':>6}" + counted * "  boundary"]
    rows = zip(class_names, scores.iou, scores.accuracy, scores.share, scores.boundary_iou, strict=True)
    for name, iou, accuracy, share, near in rows:
        line = f"{name:<{width}}  {_number(iou):>6}  {_number(accuracy):>8}  {_percent(share):>6}"
        lines.append(line + counted * f"  {_number(near):>8}")
    lines.append("-" * len(lines[0]))
    lines += [f"{name:<{width}}  {_number(value):>6}" for name, value in overall.items()]
    return "\n".join(lines)


def to_json(split: str, step: int, scores: Scores, class_names: Sequence[str]) -> str:
    """One line: `{"split", "step", "miou", "pixel_accuracy", "class_accuracy", "iou": {name: value}}`; NaN is null.

    Where the images were counted, `boundary_miou` and `boundary_iou` too.
    """
    _check_names(scores, class_names)
    values = {
        "split": split,
        "step": int(step),
        "miou": finite(scores.miou),
        "pixel_accuracy": finite(scores.pixel_accuracy),
        "class_accuracy": finite(scores.class_accuracy),
        "iou": _by_name(scores.iou, class_names),
    }
    if scores.images is not None:
        values["boundary_miou"] = finite(scores.boundary_miou)
        values["boundary_iou"] = _by_name(scores.boundary_iou, class_names)
    return json.dumps(values, allow_nan=False, ensure_ascii=False)


def _by_name(values: Sequence[float], class_names: Sequence[str]) -> dict[str, float | None]:
    return {name: finite(value) for name, value in zip(class_names, values, strict=True)}


def finite(value: Any) -> float | None:
    """A number (or 0-d array) as JSON can hold it: NaN and infinities become None.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    value = float(value)
    return value if math.isfinite(value) else None


def short(value: float | None) -> str:
    """A number with at least three significant digits and no more than needed; `-` for None.

    >>> short(0.012345), short(12.345), short(1234.5), short(0), short(None)
    ('0.0123', '12.3', '1,234', '0', '-')
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _number(value: float) -> str:
    return "absent" if math.isnan(value) else f"{value:.4f}"


def _percent(value: float) -> str:
    return "0.0%" if math.isnan(value) else f"{value:.1%}"


def _check_names(scores: Scores, class_names: Sequence[str]) -> None:
    if len(class_names) != len(scores.iou):
        raise ValueError(f"{len(class_names)} class names for the scores of {len(scores.iou)} classes")
