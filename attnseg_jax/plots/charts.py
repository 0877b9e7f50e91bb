"""Charts: the course of a training, cost against size, score against cost, which system is better."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from attnseg_jax.plots.drawing import plain_axes, write_png
from attnseg_jax.plots.names import Named, name_points

_MARKERS = "os^Dv<>Pp*Xhd"
_COLORS = [*matplotlib.colormaps["tab10"].colors, *matplotlib.colormaps["Dark2"].colors]

_CLASS, _NAMED_CLASSES, _MARKED = "val_iou/", 10, 30

Points = Sequence[tuple[float, float]]


def training_curves(series: Mapping[str, tuple[Sequence[int], Sequence[float]]], path: str | os.PathLike) -> None:
    """Writes one PNG of losses, scores, IoU of classes and learning rate over the steps.

    Args:
      series: name -> steps, values, as `files.read_series` gives them; of the names `loss`, `val_cross_entropy`,
        `miou`, `val_miou`, `val_pixel_accuracy`, `val_iou/CLASS` and `learning_rate` those that are there are drawn. Of
        many classes the lowest in the end have colours and names, and the others are gray.
      path: of the PNG.
    """
    figure = Figure(figsize=(13, 7.6), dpi=120, layout="constrained")
    loss, score, classes, rate = figure.subplots(2, 2, sharex=True).flat
    for axes, title in ((loss, "loss"), (score, "score"), (classes, "IoU of classes"), (rate, "learning rate")):
        plain_axes(axes, title, "step")
        axes.tick_params(labelbottom=True)
    _lines(loss, series, {"loss": ("train loss", "#30638e"), "val_cross_entropy": ("val cross-entropy", "#d1495b")})
    scores = {"miou": ("train mIoU", "#9aa5b1"), "val_miou": ("val mIoU", "#d1495b")}
    _lines(score, series, {**scores, "val_pixel_accuracy": ("val pixel accuracy", "#2a6f97")})
    _class_lines(classes, {name.removeprefix(_CLASS): series[name] for name in series if name.startswith(_CLASS)})
    _lines(rate, series, {"learning_rate": ("learning rate", "#30638e")})
    for axes in (score, classes):
        # A line at 0 or 1 is seen as well.
        axes.set_ylim(-0.02, 1.02)
    for axes in (loss, score):
        if axes.lines:
            axes.legend(frameon=False)
    rate.ticklabel_format(axis="y", scilimits=(-2, 2))
    write_png(path, figure)


def _lines(axes: Axes, series: Mapping[str, tuple], shown: Mapping[str, tuple[str, Any]]) -> None:
    """Draws series by their names, each with a label and a colour; those of few points with markers."""
    for name, (label, color) in shown.items():
        steps, values = series.get(name, ([], []))
        if steps:
            marker = "o" if len(steps) < _MARKED else None
            axes.plot(steps, values, label=label, color=color, marker=marker, markersize=3.5, clip_on=False)


def _class_lines(axes: Axes, series: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    """Draws a line for each class; the last values of the lowest stand in the legend."""
    lowest = sorted(series, key=lambda name: series[name][1][-1])
    shown = {}
    for i, name in enumerate(lowest):
        color = _style(i)["color"] if i < _NAMED_CLASSES else "#d5d8dc"
        shown[name] = f"{series[name][1][-1]:.2f} {name}", color
    # The gray ones first, so that they lie below.
    _lines(axes, series, dict(reversed(shown.items())))
    if lowest:
        handles = axes.lines[::-1][:_NAMED_CLASSES]
        title = "in the end" if len(lowest) <= _NAMED_CLASSES else f"the lowest of {len(lowest)} in the end"
        axes.legend(handles=handles, title=title, fontsize=8, title_fontsize=8, frameon=False, loc="upper left",
                    bbox_to_anchor=(1.0, 1.0))  # fmt: skip


def cost_against_size(panels: Mapping[str, Mapping[str, Points]], path: str | os.PathLike) -> None:
    """Writes one PNG: a panel per cost, in it a line per mechanism over the number of positions, both axes logarithmic.

    `panels`: title -> name -> points (positions, cost); names without points are left out, as are costs of 0.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6 * columns + 2, 4.2 * rows), dpi=110, layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items()):
        plain_axes(axes, title, "positions (height x width)")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for name, points in lines.items():
            points = sorted(point for point in points if point[1] > 0)
            if points:
                axes.plot(*zip(*points), label=name, markersize=4, **_style(names.index(name)))
    _legend(figure)
    write_png(path, figure)


def score_against_cost(
    rows: Sequence[Mapping[str, Any]], costs: Mapping[str, tuple[str, float]], path: str | os.PathLike
) -> None:
    """Writes one PNG: a panel of mIoU against each cost, with the range over seeds, and the learning curves.

    Args:
      rows: one per label: `label`, `mious` (of each seed), the costs by their keys (None where unknown), `curve`,
        points (step, validation mIoU), and, for a panel of curves over time, `clock`, points (seconds, that mIoU).
      costs: key of a cost -> title of its axis, factor; a cost that no row knows gets no panel.
      path: where to.
    """
    costs = {key: shown for key, shown in costs.items() if any(row[key] for row in rows)}
    curves = {"curve": "step", "clock": "seconds of training"}
    curves = {key: title for key, title in curves.items() if key == "curve" or any(row.get(key) for row in rows)}
    count = len(costs) + len(curves)
    columns = min(count, 3)
    lines = -(-count // columns)
    figure = Figure(figsize=(6 * columns + 2, 5 * lines), dpi=110, layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for empty in panels[count:]:
        empty.remove()
    named: list[tuple[Axes, list[Named]]] = []
    for axes, (key, (title, factor)) in zip(panels, costs.items()):
        plain_axes(axes, "validation mIoU, mean and range over seeds", title)
        values = [row[key] * factor for row in rows if row[key]]
        _logarithmic(axes, values)
        # Space for names; a single value would have no range of its own.
        space = max(max(values) / min(values), 1.5) ** 0.16
        axes.set_xlim(min(values) / space, max(values) * space)
        points = []
        for i, row in enumerate(rows):
            if row[key]:
                x, low, high = row[key] * factor, min(row["mious"]), max(row["mious"])
                mean = sum(row["mious"]) / len(row["mious"])
                style = _style(i)
                axes.errorbar(x, mean, [[mean - low], [high - mean]], label=row["label"], capsize=3, **style, ls="none")
                points.append(Named(row["label"], x, mean, low, high, style["color"]))
        axes.margins(y=0.08)
        named.append((axes, points))
    for axes, (key, title) in zip(panels[len(costs) :], curves.items()):
        plain_axes(axes, "validation mIoU, mean over seeds", title)
        if key == "clock":
            _logarithmic(axes, [seconds for row in rows for seconds, _ in row.get(key, ())])
        for i, row in enumerate(rows):
            if row.get(key):
                axes.plot(*zip(*row[key]), label=row["label"], markersize=4, **_style(i))
    _legend(figure)
    name_points(figure, named)
    write_png(path, figure)


def confidence_matrix(
    labels: Sequence[str], confidences: Mapping[str, Mapping[tuple[str, str], float]], path: str | os.PathLike
) -> None:
    """Writes one PNG: how sure it is, in per cent, that the system of a row is better than that of a column.

    Args:
      labels: the systems, in the order of rows and columns.
      confidences: what may be others, such as images -> (row, column) -> between 0 and 1; a panel for each.
      path: of the PNG.
    """
    side = 2.5 + 0.5 * len(labels)
    figure = Figure(figsize=(side * len(confidences) + 0.8, side), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(confidences), squeeze=False, sharey=True)[0]
    for axes, (others, shares) in zip(panels, confidences.items(), strict=True):
        values = np.array([[shares.get((a, b), np.nan) for b in labels] for a in labels])
        image = axes.imshow(100 * values, cmap="RdBu", vmin=0, vmax=100)
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value):
                # Black cannot be read on the ends of the colour map.
                axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if abs(value - 0.5) > 0.35 else "black")  # fmt: skip
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_title(others, fontsize=10)
        axes.spines[:].set_visible(False)
    figure.suptitle("confidence, %, that the mIoU of the row is above that of the column", fontsize=10)
    figure.colorbar(image, ax=panels, shrink=0.8)
    write_png(path, figure)


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Makes the horizontal axis logarithmic, with as many labels as suit the range of `values`."""
    ratio = max(values) / min(values)
    subs = (1, 1.5, 2, 3, 4, 6, 8) if ratio < 10 else (1, 2, 5) if ratio < 300 else (1,)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _style(i: int) -> dict[str, Any]:
    """More than one cycle of colours: the markers differ too."""
    return {"color": _COLORS[i % len(_COLORS)], "marker": _MARKERS[i % len(_MARKERS)]}


def _legend(figure: Figure) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=8)
