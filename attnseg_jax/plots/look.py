"""What every part of an image attends to, small enough for a page: a grid of points, a coarse map for each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from attnseg_jax.models.records import AttentionRecord, GateMap
from attnseg_jax.plots.attention_maps import heat_maps, position
from attnseg_jax.plots.drawing import data_uri, png_bytes

# Points of an image, positions that each attends to, and records of a model, at most.
_POINTS, _POSITIONS, _RECORDS = 320, 640, 3
_CHUNK = 32


@dataclass(frozen=True, eq=False)
class Grid:
    """Points of an image, one in the middle of each of `rows` x `columns` equal cells, row by row."""

    rows: int
    columns: int
    size: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], points: int = _POINTS) -> "Grid":
        """Cells of an image of a size (h, w), about as high as wide.

        >>> (grid := Grid.of((360, 480))).rows, grid.columns, grid.points[:2].tolist()
        (15, 20, [[12, 12], [12, 36]])
        """
        h, w = size
        rows = min(h, max(1, math.floor(math.sqrt(points * h / w))))
        return cls(rows, min(w, max(1, points // rows), math.ceil(rows * w / h)), size)

    @property
    def points(self) -> Int[np.ndarray, "n 2"]:
        """Row and column in pixels of each."""
        axes = [
            (2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip((self.rows, self.columns), self.size, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)


def pixel_records(records: Mapping[str, AttentionRecord]) -> dict[str, AttentionRecord]:
    """The records of weights between positions of the image, the last ones, which are nearest to the output."""
    found = {
        name: record
        for name, record in records.items()
        if not isinstance(record, GateMap) and record.query_size and record.key_size
    }
    return dict(list(found.items())[-_RECORDS:])


def looked_at(record: AttentionRecord, grid: Grid, covered: tuple[int, int]) -> Float[np.ndarray, "n y x"]:
    """What each point of a grid attends to, as the mean over the heads of the strength of the weights.

    Large maps are made coarser by a whole factor, by sums over its squares.
    """
    queries = np.array([position(tuple(point), covered, record.query_size) for point in grid.points.tolist()])
    (h, w), factor = record.key_size, _coarsening(record)
    found = []
    for start in range(0, len(queries), _CHUNK):
        maps = np.abs(heat_maps(record, queries[start : start + _CHUNK])[0]).mean(0)
        maps = np.pad(maps, ((0, 0), (0, -h % factor), (0, -w % factor)))
        found.append(maps.reshape(len(maps), -(-h // factor), factor, -(-w // factor), factor).sum((2, 4)))
    return np.concatenate(found)


def _coarsening(record: AttentionRecord) -> int:
    """By which factor a record's map is made coarser, so that it has at most so many positions as a page holds."""
    h, w = record.key_size
    return math.ceil(math.sqrt(h * w / _POSITIONS))


def atlas(maps: Float[np.ndarray, "n y x"], columns: int) -> UInt8[np.ndarray, "h w"]:
    """Maps side by side in rows of `columns`, each from 0 to 255 at its own largest value.

    >>> atlas(np.array([[[1.0, 0.5]], [[0.0, 4.0]], [[0.0, 0.0]], [[2.0, 2.0]]]), 2).tolist()
    [[255, 128, 0, 255], [0, 0, 255, 255]]
    """
    n, y, x = maps.shape
    top = np.maximum(maps.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
    whole = np.round(255 * maps / top).astype(np.uint8)
    return whole.reshape(n // columns, columns, y, x).swapaxes(1, 2).reshape(n // columns * y, columns * x)


def look_data(
    records: Mapping[str, AttentionRecord],
    covered: tuple[int, int],
    truth: Int[np.ndarray, "h w"],
    prediction: Int[np.ndarray, "h w"],
    sure: Float[np.ndarray, "h w"],
) -> dict[str, Any]:
    """What the page's script needs of an image, as JSON can hold it.

    Args:
      records: of attention, all of the model.
      covered: height and width in pixels that their maps cover.
      truth: train ids, 255 where unknown.
      prediction: train ids.
      sure: probability of the predicted class.
    """
    grid = Grid.of(truth.shape)
    ys, xs = grid.points.T
    found = []
    for name, record in pixel_records(records).items():
        maps, factor = looked_at(record, grid, covered), _coarsening(record)
        cells, size = maps.shape[1:], record.key_size
        # Of the image: what the coarse map covers, which may be more.
        reach = [n * factor / m * c / s for n, m, c, s in zip(cells, size, covered, truth.shape)]
        png = png_bytes(Image.fromarray(atlas(maps, grid.columns)), optimize=True)
        found.append({"name": name, "cells": list(cells), "reach": reach, "atlas": data_uri(png)})
    return {
        "rows": grid.rows,
        "columns": grid.columns,
        "size": list(truth.shape),
        "records": found,
        "truth": truth[ys, xs].tolist(),
        "predicted": prediction[ys, xs].tolist(),
        "sure": np.round(100 * sure[ys, xs]).astype(int).tolist(),
    }
