"""Names beside the points of a chart, none on top of another."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# In points: how far a name may be from its point, and from where on a line leads to it.
_DISTANCES = (7, 10, 14, 19, 25, 32, 40, 50, 62, 76, 92, 110, 130, 155, 185)
_LED = 12
_DIRECTIONS = 16
_MARKER, _SIZE = 4.5, 7.5

Box = tuple[float, float, float, float]
"""Left, bottom, right and top in pixels."""


@dataclass(frozen=True)
class Named:
    """A point with its name; `low` and `high` are the ends of its vertical bar, `color` is that of its marker."""

    name: str
    x: float
    y: float
    low: float
    high: float
    color: tuple


def name_points(figure: Figure, panels: Sequence[tuple[Axes, Sequence[Named]]]) -> None:
    """Writes the name of every point into its axes, near it and clear of the other names, markers and bars.

    A thin line leads from a name that is not beside its point. Call this last: it lays the figure out for good.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    unit = figure.dpi / 72
    for axes, points in panels:
        if not points:
            continue
        inside = axes.get_window_extent()
        frame = (inside.x0, inside.y0, inside.x1, inside.y1)
        ends = np.array([[(p.x, p.low), (p.x, p.y), (p.x, p.high)] for p in points])
        pixels = axes.transData.transform(ends.reshape(-1, 2)).reshape(ends.shape)
        reach = _MARKER * unit
        taken: list[Box] = [(x - reach, y - reach, x + reach, y + reach) for x, y in pixels[:, 1]]
        taken += [(x - 0.6 * reach, low, x + 0.6 * reach, high) for (x, low), _, (_, high) in pixels]
        lines: list[tuple[np.ndarray, np.ndarray]] = []
        # From the right: what is there has the least space.
        for i in sorted(range(len(points)), key=lambda i: (-pixels[i, 1, 0], -pixels[i, 1, 1])):
            text = axes.annotate(
                points[i].name, (points[i].x, points[i].y), (0, 0), textcoords="offset pixels", fontsize=_SIZE,
                ha="center", va="center", color=_dark(points[i].color),
            )  # fmt: skip
            extent = text.get_window_extent(canvas.get_renderer())
            at = pixels[i, 1]
            box, line = _best(_places(at, extent.width + 4, extent.height, unit), at, frame, taken, lines)
            taken.append(box)
            centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
            text.set_position(centre - at)
            if line is not None:
                lines.append((at, line))
                axes.annotate(
                    "", (points[i].x, points[i].y), line - at, textcoords="offset pixels",
                    arrowprops={"arrowstyle": "-", "lw": 0.6, "color": points[i].color, "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip


def _places(at: np.ndarray, width: float, height: float, unit: float) -> Iterator[tuple[Box, np.ndarray | None]]:
    """Boxes around a point, the nearest first, each with where a line to it would end (None: it needs none)."""
    for distance in _DISTANCES:
        for k in range(_DIRECTIONS):
            # First to the right, then up and down in turn.
            turn = 2 * math.pi * ((k + 1) // 2) / _DIRECTIONS * (1 if k % 2 else -1)
            way = np.array([math.cos(turn), math.sin(turn)])
            end = at + distance * unit * way
            # The box touches the end with the side or corner that looks at the point.
            x, y = end + way * (width / 2, height / 2)
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            yield box, end if distance >= _LED else None


def _best(places, at, frame, taken, lines) -> tuple[Box, np.ndarray | None]:
    """The first place that nothing speaks against, else the least bad one."""
    least, best = math.inf, None
    for place in places:
        cost = _cost(*place, at, frame, taken, lines)
        if cost < least:
            least, best = cost, place
        if not cost:
            break
    return best


def _cost(box, line, at, frame, taken, lines) -> float:
    """What speaks against a place: pixels on top of others or outside the axes, and lines that cross."""
    covered = sum(_overlap(box, other) for other in taken)
    outside = max(0.0, (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame) - 1e-6)
    crossed = sum(_crosses(*other, box) for other in lines)
    if line is not None:
        crossed += sum(_intersect(at, line, *other) for other in lines)
        # All but the markers and bars around the point itself.
        crossed += sum(_crosses(at, line, other) for other in taken if not _holds(other, at))
    return covered + outside + 20 * crossed


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _holds(box: Box, point: np.ndarray) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _crosses(start: np.ndarray, end: np.ndarray, box: Box) -> bool:
    """Whether a line goes through a box."""
    steps = start + np.linspace(0, 1, 24)[:, None] * (end - start)
    return bool(((steps > box[:2]) & (steps < box[2:])).all(1).any())


def _intersect(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Whether the lines from a to b and from c to d cross."""

    def side(p, q, r):
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]) > 0

    return side(a, b, c) != side(a, b, d) and side(c, d, a) != side(c, d, b)


def _dark(color: tuple) -> tuple:
    """A colour that can be read as text on white."""
    return tuple(0.65 * channel for channel in color[:3])
