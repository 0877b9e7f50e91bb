"""The values of masks: colours to raw ids, raw ids to train ids."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer, UInt8

from attnseg_jax.data.datasets import UNKNOWN
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL


def ids_of_colours(
    rgb: UInt8[np.ndarray, "h w 3"], name: str, colors: Sequence[tuple[int, int, int]], nearest: bool
) -> Integer[np.ndarray, "h w"]:
    """Raw ids by the colours `colors[raw]`, each pixel's own or with `nearest` the nearest one.

    Raises UserError naming `name` and a colour that is not among them.
    """
    if nearest:
        return _nearest_colours(rgb, np.array(colors, np.int32))
    weights = np.array([1 << 16, 1 << 8, 1], np.int32)
    codes = np.array(colors, np.int32) @ weights
    order = np.argsort(codes)
    pixels = rgb.astype(np.int32) @ weights
    position = np.searchsorted(codes[order], pixels).clip(max=len(codes) - 1)
    raw = order[position]
    unknown = codes[raw] != pixels
    if unknown.any():
        colour = tuple(int(v) for v in rgb[unknown][0])
        raise UserError(
            f"{name}: the mask holds the colour {colour}, which is not in config.data.colors; without those, gray and "
            "palette masks are read by value"
        )
    return raw


def _nearest_colours(rgb: np.ndarray, colors: np.ndarray) -> np.ndarray:
    # Of each colour once: there are far fewer than pixels.
    codes, inverse = np.unique(rgb.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32), return_inverse=True)
    found = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1)
    best, raw = np.full(len(found), np.inf), np.zeros(len(found), np.int64)
    for i, color in enumerate(colors):
        distance = ((found - color) ** 2).sum(-1)
        raw = np.where(distance < best, i, raw)
        best = np.minimum(distance, best)
    return raw[inverse].reshape(rgb.shape[:2])


def id_table(ids: Sequence[int], *, nearest: bool = False) -> UInt8[np.ndarray, "65536"]:
    """The lookup table raw id -> train id; raw 255 is ignored unless `ids` reaches that far.

    With `nearest` every value is taken for the nearest one that `ids` knows, the lower of two.
    """
    table = np.full(1 << 16, UNKNOWN, np.uint8)
    if nearest:
        known = np.flatnonzero(np.array(ids) != UNKNOWN)
        # Values up to half the way to the next one belong to it.
        return np.array(ids, np.uint8)[known][np.searchsorted((known[:-1] + known[1:]) / 2, np.arange(1 << 16))]
    table[IGNORE_LABEL] = IGNORE_LABEL
    table[: len(ids)] = ids
    return table


def to_train_ids(
    raw: Integer[np.ndarray, "h w *k"], table: UInt8[np.ndarray, "65536"], name: str
) -> UInt8[np.ndarray, "h w *k"]:
    """Map raw ids to train ids.  Raises UserError naming `name` and the value for one outside the table."""
    # Values of 32-bit masks may lie outside the table; "clip" looks up its last entry for them, which is unknown.
    label = np.take(table, raw, mode="clip")
    if raw.dtype.itemsize > 2 and raw.size and (raw.min() < 0):
        label = np.where(raw < 0, np.uint8(UNKNOWN), label)
    unknown = label == UNKNOWN
    if unknown.any():
        value = int(raw[unknown].min())
        known = np.flatnonzero(table != UNKNOWN)
        raise UserError(
            f"{name}: the mask holds the value {value}, which is not in the table of raw ids "
            f"({_ranges(known)}); config.data.ids maps raw ids to train ids, as in ((0, 0), ({value}, 1)), "
            f"and config.data.ignore=({IGNORE_LABEL}, {value}) ignores it"
        )
    return label


def _ranges(values: np.ndarray) -> str:
    parts = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{p[0]}" if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
