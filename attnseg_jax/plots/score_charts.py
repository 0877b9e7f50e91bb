"""Charts of scores: which classes are taken for which, how sure a model is against how right, thresholds."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from attnseg_jax.evaluation.calibration import Calibration, Thresholds
from attnseg_jax.ops.metrics import ratio
from attnseg_jax.plots.drawing import plain_axes

# From so many classes on, numbers in the cells could not be read; from so many on, names of the axes neither.
_NUMBERS, _NAMES = 32, 80


def confusion_matrix(confusion: Int[np.ndarray, "k k"], names: Sequence[str]) -> Figure:
    """Of the pixels of each true class (row), the share that was predicted as each class (column)."""
    k = len(names)
    shares = 100 * ratio(confusion, confusion.sum(1, keepdims=True))
    side = 3 + min(0.42 * k, 14)
    figure = Figure(figsize=(side + 1.2, side), dpi=110, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if k <= _NUMBERS:
        for (y, x), value in np.ndenumerate(shares):
            if value >= 0.5:
                # Black cannot be read on the dark end of the colour map.
                axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if value > 60 else "black")  # fmt: skip
    if k <= _NAMES:
        axes.set_xticks(range(k), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(k), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("% of the pixels of each true class", fontsize=10)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.7)
    return figure


def calibration_chart(found: Calibration, sweep: Thresholds | None = None) -> Figure:
    """How often pixels are right by how sure the model is, and of two classes the scores by threshold.

    Below the line of equal confidence and accuracy the model is too sure.
    """
    figure = Figure(figsize=(11.5 if sweep else 5.8, 4.6), dpi=110, layout="constrained")
    first, *others = figure.subplots(1, 2 if sweep else 1, squeeze=False)[0]
    plain_axes(first, f"calibration error {found.error:.4f}", "confidence")
    middles = (np.arange(len(found.share)) + 0.5) / len(found.share)
    first.bar(middles, found.share, 0.9 / len(found.share), color="#c9d6e3", label="share of the pixels")
    first.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, linestyle="--", label="as right as sure")
    first.plot(found.confidence, found.accuracy, "o-", color="#d1495b", label="accuracy")
    for axes in others:
        best = sweep.best
        plain_axes(axes, f"IoU is highest, {sweep.iou[best]:.4f}, from {sweep.threshold[best]:.2f} on", "threshold")
        for name, color in (("iou", "#d1495b"), ("precision", "#30638e"), ("recall", "#6a994e")):
            axes.plot(sweep.threshold, getattr(sweep, name), color=color, label={"iou": "IoU"}.get(name, name))
        axes.axvline(sweep.threshold[best], color="#9aa5b1", linewidth=1, linestyle="--")
    for axes in (first, *others):
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(frameon=False)
    return figure


def threshold_chart(sweeps: Mapping[str, Thresholds]) -> Figure:
    """The IoU of each class by the threshold from which on it is predicted, and where it is highest."""
    figure = Figure(figsize=(7.5, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    plain_axes(axes, "IoU by threshold, and where it is highest", "threshold")
    for name, sweep in sweeps.items():
        x, y = sweep.threshold[sweep.best], sweep.iou[sweep.best]
        (line,) = axes.plot(sweep.threshold, sweep.iou, label=f"{name}: {y:.4f} from {x:.2f} on")
        axes.plot([x], [y], "o", color=line.get_color())
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
