"""Pictures of what a model attends to; the form of an attention record decides, never the mechanism's name."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8

from attnseg_jax.models.records import AttentionRecord, GateMap
from attnseg_jax.plots import attention_maps, panels
from attnseg_jax.plots.attention_maps import WeightRecord
from attnseg_jax.plots.drawing import brightened, write_png
from attnseg_jax.plots.panels import Panel, Row, Scale
from attnseg_jax.plots.sheet import coloured, occurring

_DPI = 120
_REGIONS, _BARS, _MATRICES = 27, 32, 9
"""Most panels or bars of one kind; a sheet with more is no longer read."""
_WEIGHTS = Scale("0", "largest weight\nof the panel")
_SIGNED = Scale("- largest", "+ largest weight\nof the panel", signed=True)
_ENTROPY = Scale("0: one place", "1: everywhere\nalike")
_GATE = Scale("lowest", "highest")


@dataclass(frozen=True)
class Scene:
    """An image, the points whose attention is asked for, and what the model made of it.

    Attributes:
      image: uint8 `[h, w, 3]`.
      points: (y, x) in pixels of the image.
      prediction: train ids `[h, w]`, or of each class whether it is there `[h, w, k]`.
      class_names: by train id.
      palette: uint8 `[k, 3]`.
      title: what image and model these are.
      padded_size: height and width of what the maps cover, where the image was padded at the bottom and right.
    """

    image: UInt8[np.ndarray, "h w 3"]
    points: Sequence[tuple[int, int]]
    prediction: Integer[np.ndarray, "h w *k"]
    class_names: Sequence[str]
    palette: UInt8[np.ndarray, "k 3"]
    title: str
    padded_size: tuple[int, int] | None = None

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width of what the maps cover, in pixels."""
        return self.padded_size or self.image.shape[:2]

    @property
    def marks(self) -> panels.Marks:
        """The points with their numbers; a single one needs none."""
        return [(str(i + 1) if len(self.points) > 1 else "", point) for i, point in enumerate(self.points)]

    def positions(self, size: tuple[int, int]) -> np.ndarray:
        """The numbers of the positions on a map of `size` that the points belong to."""
        return np.array([attention_maps.position(point, self.covered, size) for point in self.points])

    def describe(self, number: int) -> str:
        """A point in words."""
        y, x = self.points[number]
        label = f"point {number + 1}" if len(self.points) > 1 else "the point"
        names = [self.class_names[k] for k in occurring(self.prediction[y : y + 1, x : x + 1])]
        return f"{label} (y={y}, x={x}, predicted {' and '.join(names) or 'nothing'})"

    def names(self, count: int, prefix: str = "") -> list[str]:
        """Names of regions: those of the classes where there are as many, else numbers."""
        if count == len(self.class_names):
            return list(self.class_names)
        return [f"{prefix}{i + 1}" for i in range(count)]


def attention_sheet(scene: Scene, records: Mapping[str, AttentionRecord], folder: str | os.PathLike) -> list[Path]:
    """Writes `NAME.png` for each attention record, such as `self0.png`, and everything together as `sheet.png`.

    What each point looks at is drawn over the image, a panel for each head. So are regions (queries that are no
    pixels), gates of positions, and how widely each position looks. Gates of channels are sorted bars. Colours run from
    0 to the largest weight of the panel, which its title states.

    Args:
      scene: the image and its prediction.
      records: name -> record, as `models.records.attention_records` gives them; of a batch the first image is drawn.
      folder: where to, made if needed.

    Returns:
      The paths, that of the sheet last.
    """
    folder, aspect = Path(folder), scene.image.shape[0] / scene.image.shape[1]
    shown, factor = brightened(scene.image)
    if factor > 1:
        scene = replace(scene, image=shown, title=f"{scene.title}; drawn {factor:.3g} times as bright")
    paths, pages = [], [panels.page(scene.title, _overview(scene), aspect, _DPI)]
    for name, record in records.items():
        header, rows = _gate(record, scene) if isinstance(record, GateMap) else _attended(record, scene)
        pages.append(panels.page(f"{name}: {header}", rows, aspect, _DPI))
        paths.append(folder / f"{name}.png")
        write_png(paths[-1], panels.stack(pages[-1:]))
    paths.append(folder / "sheet.png")
    write_png(paths[-1], panels.stack(pages))
    return paths


def _overview(scene: Scene) -> list[Row]:
    classes = occurring(scene.prediction)
    legend = panels.legend([scene.class_names[i] for i in classes], scene.palette[classes])
    points = "; ".join(scene.describe(i) for i in range(min(len(scene.points), 4)))
    return [
        Row(
            points + (" ..." if len(scene.points) > 4 else ""),
            [
                Panel("image", panels.picture(scene.image, scene.marks)),
                Panel("prediction", panels.picture(coloured(scene.prediction, scene.palette), scene.marks)),
                Panel("", legend),
            ],
        )
    ]


def _attended(record: WeightRecord, scene: Scene) -> tuple[str, list[Row]]:
    """Header and rows by whether queries and keys are positions of a map."""
    _, heads, n, s = attention_maps.weights_shape(record)
    if record.query_size is None:
        if record.key_size is None:
            return f"{n} channels or regions look at {s}, {_heads(heads)}", [_matrices(record)]
        maps = attention_maps.heat_maps(record, np.arange(n))[0]
        row = _regions("how each region gathers from the image", maps, scene)
        return f"{n} regions look at {_positions(record.key_size)}, {_heads(heads)}", [row]
    where = f"{_positions(record.query_size)} look at"
    if record.key_size is None:
        rows = _region_bars(record, scene)
        rows.append(_regions("how much each position looks at a region", attention_maps.key_maps(record)[0], scene))
        where = f"{where} {s} regions, {_heads(heads)}"
    else:
        rows = _point_rows(record, scene)
        dense = record.keys is None
        each = _positions(record.key_size) if dense else f"{s} positions each, of {_positions(record.key_size)}"
        where = f"{where} {each}, {_heads(heads)}"
    return where, rows + _entropy_rows(record, scene)


def _point_rows(record: WeightRecord, scene: Scene) -> list[Row]:
    rows = []
    maps = attention_maps.heat_maps(record, scene.positions(record.query_size))[0]
    scale = _scale(maps)
    for i, mark in enumerate(scene.marks):
        drawn = [_weights(_head(a, heat), heat, scale, scene, [mark]) for a, heat in enumerate(maps[:, i])]
        point = Panel("image", panels.picture(scene.image, [mark]))
        rows.append(Row(f"where {scene.describe(i)} looks", [point, *drawn], scale))
    return rows


def _region_bars(record: WeightRecord, scene: Scene) -> list[Row]:
    weights = np.asarray(record.rows(scene.positions(record.query_size)))[0]
    names = scene.names(weights.shape[-1])
    rows = []
    for i in range(len(scene.points)):
        drawn = []
        for a, values in enumerate(weights[:, i]):
            most = np.arange(len(names)) if len(names) <= _BARS else np.argsort(-values, kind="stable")[:_BARS]
            title = _head(a, values) + (f", the {_BARS} largest of {len(names)}" if len(names) > _BARS else "")
            drawn.append(Panel(title, panels.bars(values[most], [names[j] for j in most])))
        rows.append(Row(f"which regions {scene.describe(i)} looks at", drawn, wide=True))
    return rows


def _regions(caption: str, maps: Float[np.ndarray, "a n y x"], scene: Scene) -> Row:
    """A panel for each region, mean of the heads; of many regions those that weigh most at the points."""
    maps, heads = maps.mean(0), len(maps)
    names, chosen, scale = scene.names(len(maps), "region "), np.arange(len(maps)), _scale(maps)
    if len(maps) > _REGIONS:
        at_points = maps.reshape(len(maps), -1)[:, scene.positions(maps.shape[1:])].max(1)
        chosen = np.argsort(-at_points, kind="stable")[:_REGIONS]
        caption += f", the {_REGIONS} of {len(maps)} that weigh most at the points"
    caption += f" (mean of {heads} heads)" if heads > 1 else ""
    drawn = [_weights(f"{names[i]}, max {maps[i].max():.2g}", maps[i], scale, scene, scene.marks) for i in chosen]
    return Row(caption, drawn, scale)


def _matrices(record: WeightRecord) -> Row:
    weights = np.asarray(record.weights)[0, :_MATRICES]
    scale = _scale(weights)
    drawn = [Panel(_head(a, w), panels.matrix(w, scale, _limits(w, scale))) for a, w in enumerate(weights)]
    return Row("each line: how much one of them looks at each of the others", drawn, scale)


def _entropy_rows(record: WeightRecord, scene: Scene) -> list[Row]:
    maps = attention_maps.relative_entropy(record)[0].reshape(-1, *record.query_size)
    if np.isnan(maps).all():
        return []
    caption = "how widely each position looks (entropy of its weights, as a share of that of equal weights)"
    drawn = [
        Panel(
            f"head {a + 1}, mean {np.nanmean(m):.2f}",
            panels.heat(scene.image, m, _ENTROPY, (0, 1), scene.marks, scene.covered),
        )
        for a, m in enumerate(maps)
    ]
    # The image first, so that heads stand below each other.
    return [Row(caption, [Panel("image", panels.picture(scene.image, scene.marks)), *drawn], _ENTROPY)]


def _gate(gate: GateMap, scene: Scene) -> tuple[str, list[Row]]:
    values = np.asarray(gate.values, np.float32)[0]
    h, w, c = values.shape
    if (h, w) == (1, 1):
        ordered = np.sort(values.ravel())[::-1]
        title = f"mean {ordered.mean():.2f}, {(ordered < 0.1).sum()} below 0.1, {(ordered > 0.9).sum()} above 0.9"
        row = Row(
            "what share of each channel passes, channels sorted",
            [Panel(title, panels.bars(ordered, top=1.0))],
            wide=True,
        )
        return f"gate of {c} channels", [row]
    shown = values.mean(-1)
    limits = (float(shown.min()), float(shown.max()))
    drawn = panels.heat(scene.image, shown, _GATE, limits, scene.marks, scene.covered)
    caption = "what share passes at each position" + (f" (mean of {c} channels)" if c > 1 else "")
    return f"gate of {_positions((h, w))}", [Row(caption, [Panel("{:.2g} to {:.2g}".format(*limits), drawn)], _GATE)]


def _weights(title: str, values: Float[np.ndarray, "y x"], scale: Scale, scene: Scene, marks: panels.Marks) -> Panel:
    return Panel(title, panels.heat(scene.image, values, scale, _limits(values, scale), marks, scene.covered))


def _scale(values: np.ndarray) -> Scale:
    return _SIGNED if values.min() < 0 else _WEIGHTS


def _limits(values: np.ndarray, scale: Scale) -> tuple[float, float]:
    largest = float(np.abs(values).max())
    return (-largest if scale.signed else 0.0), largest


def _head(number: int, weights: np.ndarray) -> str:
    return f"head {number + 1}, max {weights.max():.2g}"


def _heads(count: int) -> str:
    return f"{count} head" + ("s" if count > 1 else "")


def _positions(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} positions"
