"""Pages of captioned rows of panels, and what can stand in a panel: pictures, heat maps, bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from attnseg_jax.plots.drawing import rendered

Draw = Callable[[Axes], None]
Marks = Sequence[tuple[str, tuple[int, int]]]
"""Labels of points with their (y, x)."""

COLUMNS = 9
_WIDTH, _MARGIN, _GAP = 15.0, 0.3, 0.14  # inches
_HEADER, _CAPTION, _TITLE = 0.36, 0.3, 0.22
_WIDEST, _NARROWEST, _HIGHEST = 2.8, 1.25, 4.0
_BARS, _SCALE, _LABELS = 1.6, 1.5, 0.44
_BAR = "#30638e"
_MARK = "#00e5ff"  # in neither of the colour maps


@dataclass(frozen=True)
class Scale:
    """Colours of heat maps, and the words at their ends; `signed` maps are white at 0."""

    low: str
    high: str
    signed: bool = False

    @property
    def colours(self) -> str:
        """The colour map's name in matplotlib; both are perceptually uniform or balanced around 0."""
        return "RdBu_r" if self.signed else "inferno"


@dataclass(frozen=True)
class Panel:
    """A title and what is drawn below it."""

    title: str
    draw: Draw


@dataclass(frozen=True)
class Row:
    """Panels under a caption: of the image's form, or `wide` ones that share the page's width."""

    caption: str
    panels: Sequence[Panel]
    scale: Scale | None = None
    wide: bool = False


def page(header: str, rows: Sequence[Row], aspect: float, dpi: int) -> Image.Image:
    """One RGB picture, always of one width: the header, and the rows in lines of at most `COLUMNS` panels.

    `aspect` is the height of the image over its width.
    """
    space = _WIDTH - 2 * _MARGIN - _SCALE
    grids = []
    for row in rows:
        lines = -(-len(row.panels) // (2 if row.wide else COLUMNS))
        columns = -(-len(row.panels) // lines)
        width = (space + _GAP) / columns - _GAP
        if not row.wide:
            width = min(width, _WIDEST, max(_HIGHEST / aspect, _NARROWEST))
        grids.append((lines, columns, width, _BARS if row.wide else width * aspect))
    height = _MARGIN + _HEADER + sum(_CAPTION + lines * (_TITLE + high + _GAP) for lines, _, _, high in grids)
    figure = Figure(figsize=(_WIDTH, height), dpi=dpi, facecolor="white")

    def axes_at(left: float, top: float, width: float, high: float) -> Axes:
        return figure.add_axes((left / _WIDTH, 1 - (top + high) / height, width / _WIDTH, high / height))

    def write(text: str, top: float, **style) -> None:
        figure.text(_MARGIN / _WIDTH, 1 - top / height, text, va="top", **style)

    write(header, _MARGIN, fontsize=13, weight="bold")
    top = _MARGIN + _HEADER
    for row, (lines, columns, width, high) in zip(rows, grids):
        write(row.caption, top + 0.06, fontsize=10)
        top += _CAPTION
        for i, panel in enumerate(row.panels):
            y, x = divmod(i, columns)
            # Bars have numbers on the left and names below.
            labels = _LABELS if row.wide else 0.0
            left, upper = _MARGIN + x * (width + _GAP) + labels, top + y * (_TITLE + high + _GAP) + _TITLE
            axes = axes_at(left, upper, width - labels, high - labels)
            panel.draw(axes)
            axes.set_title(panel.title, fontsize=8.5, pad=3)
        if row.scale:
            _colour_bar(axes_at(_MARGIN + columns * (width + _GAP) + 0.05, top + _TITLE, 0.12, high), row.scale)
        top += lines * (_TITLE + high + _GAP)
    return rendered(figure)


def stack(pages: Sequence[Image.Image]) -> Image.Image:
    """Pages of one resolution below each other, without what is empty on the right of all."""
    pixels = np.concatenate([np.asarray(picture) for picture in pages])
    used = np.flatnonzero((pixels < 255).any((0, 2)))[-1] + 1
    margin = round(pixels.shape[1] * _MARGIN / _WIDTH)
    return Image.fromarray(pixels[:, : used + margin])


def _colour_bar(axes: Axes, scale: Scale) -> None:
    bar = axes.figure.colorbar(ScalarMappable(cmap=scale.colours), cax=axes, ticks=(0, 1))
    bar.ax.tick_params(length=0)
    bar.set_ticklabels((scale.low, scale.high), fontsize=8)
    low, high = axes.get_yticklabels()
    low.set_va("bottom")
    high.set_va("top")
    bar.outline.set_visible(False)


def picture(image: UInt8[np.ndarray, "h w 3"], marks: Marks = ()) -> Draw:
    """An image with points."""

    def draw(axes: Axes) -> None:
        axes.imshow(image, aspect="auto")
        _mark(axes, image.shape[:2], marks)

    return draw


def heat(
    image: UInt8[np.ndarray, "h w 3"],
    values: Num[np.ndarray, "y x"],
    scale: Scale,
    limits: tuple[float, float],
    marks: Marks = (),
    covered: tuple[int, int] | None = None,
) -> Draw:
    """A map of any size over the whole image, which shines through in gray; NaN stays uncoloured.

    `covered` is the height and width in pixels that the map covers, where that is more than the image.
    """

    def draw(axes: Axes) -> None:
        h, w = image.shape[:2]
        rows, columns = covered or (h, w)
        low, high = limits
        gray = image.mean(-1)
        axes.imshow(gray, cmap="gray", vmin=-90, vmax=255, aspect="auto", extent=(0, w, h, 0))
        axes.imshow(
            values,
            cmap=scale.colours,
            vmin=low,
            vmax=max(high, low + 1e-12),
            alpha=0.65,
            aspect="auto",
            extent=(0, columns, rows, 0),
            interpolation="nearest",
        )
        axes.set(xlim=(0, w), ylim=(h, 0))
        _mark(axes, (h, w), marks, offset=0.5)

    return draw


def matrix(values: Num[np.ndarray, "n m"], scale: Scale, limits: tuple[float, float]) -> Draw:
    """A map that is no picture."""

    def draw(axes: Axes) -> None:
        axes.imshow(values, cmap=scale.colours, vmin=limits[0], vmax=max(limits[1], 1e-12), aspect="equal")
        axes.set_xticks(())
        axes.set_yticks(())

    return draw


def bars(values: Float[np.ndarray, "n"], names: Sequence[str] | None = None, top: float | None = None) -> Draw:
    """Bars from 0 in the given order, up to `top`, with names below them or, without these, no gaps between them."""

    def draw(axes: Axes) -> None:
        if names is None:
            axes.stairs(values, fill=True, color=_BAR)
        else:
            axes.bar(np.arange(len(values)), values, color=_BAR)
            crowded = sum(map(len, names)) > 60
            turned = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
            axes.set_xticks(np.arange(len(values)), names, **turned)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7.5)
        axes.margins(x=0.01)
        if top:
            axes.set_ylim(0, top)

    return draw


def legend(names: Sequence[str], colours: UInt8[np.ndarray, "k 3"]) -> Draw:
    """Names beside their colours."""

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        patches = [Patch(fc=colour / 255, ec="gray", label=name) for name, colour in zip(names, colours)]
        columns = -(-len(patches) // 9)
        axes.legend(handles=patches, loc="upper left", frameon=False, fontsize=8.5, borderaxespad=0, ncols=columns)

    return draw


def _mark(axes: Axes, size: tuple[int, int], marks: Marks, offset: float = 0.0) -> None:
    axes.set_xticks(())
    axes.set_yticks(())
    for label, (y, x) in marks:
        y, x = y + offset, x + offset
        axes.plot(x, y, "o", ms=6, mfc="none", mec="black", mew=3.2)
        axes.plot(x, y, "o", ms=6, mfc="none", mec=_MARK, mew=1.6)
        side = (7, "left") if x < 0.85 * size[1] else (-7, "right")
        box = {"facecolor": "black", "alpha": 0.6, "pad": 1, "lw": 0}
        if label:
            axes.annotate(
                label, (x, y), (side[0], 0), textcoords="offset points", ha=side[1], va="center", color=_MARK,
                fontsize=8, bbox=box,
            )  # fmt: skip
