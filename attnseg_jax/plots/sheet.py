"""Rows of panels with headers, captions and a legend, as one picture."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from attnseg_jax.data.class_masks import topmost
from attnseg_jax.data.palettes import default_palette
from attnseg_jax.ops.labels import IGNORE_LABEL

Swatch = tuple[str, UInt8[np.ndarray, "16 16 3"]]
"""A name of the legend and what stands beside it."""

_VOID_LIGHT, _VOID_DARK = (244, 244, 244), (176, 176, 176)
NOTHING = default_palette(1)[0]
"""Colour of pixels where no class is."""
_INK, _FAINT = (28, 28, 30), (110, 110, 115)
_MARGIN, _GAP = 24, 12


def stripes(height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """What stands for void; drawn at the size of the picture, so that no palette colour can be taken for it."""
    dark = (np.arange(height)[:, None] + np.arange(width)) % 8 < 3
    return np.where(dark[..., None], np.uint8(_VOID_DARK), np.uint8(_VOID_LIGHT))


def coloured(labels: Integer[np.ndarray, "h w *k"], palette: UInt8[np.ndarray, "k 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Classes in their colours, 255 striped.

    Of labels [h, w, k] the mean of the colours of the classes that are there, `NOTHING` where none is.
    """
    if labels.ndim == 3:
        there = labels == 1
        count = there.sum(-1, keepdims=True)
        mean = (there @ palette.astype(np.float32) / np.maximum(count, 1)).round().astype(np.uint8)
        void = (labels == IGNORE_LABEL).all(-1, keepdims=True)
        return np.where(void, stripes(*labels.shape[:2]), np.where(count > 0, mean, np.uint8(NOTHING)))
    void = labels == IGNORE_LABEL
    return np.where(void[..., None], stripes(*labels.shape), palette[np.where(void, 0, labels)])


def as_one_map(
    labels: Integer[np.ndarray, "h w *k"], palette: UInt8[np.ndarray, "k 3"]
) -> tuple[Integer[np.ndarray, "h w"], UInt8[np.ndarray, "_ 3"]]:
    """Labels with one class at a pixel, and the colours: of labels [h, w, k] the last that is there, or `NOTHING`."""
    if labels.ndim == 2:
        return labels, palette
    return topmost(labels), np.concatenate([palette, np.array([NOTHING], np.uint8)])


def occurring(labels: Integer[np.ndarray, "h w *k"]) -> Integer[np.ndarray, "n"]:
    """The classes that occur, and 255 where a pixel has no label."""
    if labels.ndim == 2:
        return np.unique(labels)
    void = bool((labels == IGNORE_LABEL).all(-1).any())
    return np.append(np.flatnonzero((labels == 1).any((0, 1))), [IGNORE_LABEL] * void).astype(int)


def flat(color: Sequence[int]) -> UInt8[np.ndarray, "16 16 3"]:
    """A swatch of one colour."""
    return np.full((16, 16, 3), color, np.uint8)


def compose(
    panels: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    headers: Sequence[str],
    captions: Sequence[str] | None,
    legend: Sequence[Sequence[Swatch]],
    heading: str = "",
) -> Image.Image:
    """One white picture: the heading, headers of columns, rows of panels below their captions, and the legend.

    Each part of the legend begins a line.
    """
    widths = [max(row[c].shape[1] for row in panels) for c in range(len(headers))]
    size = int(np.clip(widths[0] / 16, 15, 26))
    font, small = _font(size), _font(max(13, round(size * 0.85)))
    # A column is at least as wide as its header.
    widths = [max(w, int(font.getlength(h)) + 1) for w, h in zip(widths, headers)]
    line, caption = round(size * 1.7), round(small.size * 1.6) if captions is not None else 0
    full = sum(widths) + _GAP * (len(widths) - 1)
    places = _flow([[small.getlength(name) for name, _ in part] for part in legend], full, small.size)
    heights = [max(panel.shape[0] for panel in row) for row in panels]
    first = line if heading else 0
    above = first + (line if any(headers) else 0)
    height = above + sum(heights) + (_GAP + caption) * len(heights) + (places[-1][1] + line if places else 0)
    sheet = Image.new("RGB", (full + 2 * _MARGIN, height + 2 * _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), _cut(heading, full, font), _INK, font, anchor="la")
    lefts = _MARGIN + np.cumsum([0, *(w + _GAP for w in widths[:-1])])
    for left, width, header in zip(lefts, widths, headers):
        draw.text((left + width / 2, _MARGIN + first), header, _INK, font, anchor="ma")
    top = _MARGIN + above
    for i, row in enumerate(panels):
        if captions is not None:
            draw.text((_MARGIN, top), _cut(captions[i], full, small), _FAINT, small, anchor="la")
            top += caption
        for left, width, panel in zip(lefts, widths, row):
            sheet.paste(Image.fromarray(panel), (int(left) + (width - panel.shape[1]) // 2, top))
        top += heights[i] + _GAP
    for (name, swatch), (x, y) in zip(chain(*legend), places):
        box = Image.fromarray(swatch).resize((small.size, small.size), Image.Resampling.NEAREST)
        place = (_MARGIN + round(x), top + _GAP + y)
        sheet.paste(box, place)
        draw.rectangle((*place, place[0] + small.size, place[1] + small.size), outline=_FAINT)
        draw.text((place[0] + small.size * 1.5, place[1] + small.size / 2), name, _INK, small, anchor="lm")
    return sheet


def _flow(parts: Sequence[Sequence[float]], width: int, size: int) -> list[tuple[float, int]]:
    """Places of the legend's entries by their lengths, as many to a line as fit."""
    places, x, y = [], 0.0, 0
    for lengths in parts:
        for i, length in enumerate(lengths):
            if x and (i == 0 or x + length + 1.5 * size > width):
                x, y = 0.0, y + round(size * 1.7)
            places.append((x, y))
            x += length + 3 * size
    return places


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text, or what fits of it."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + " ...") > width:
        text = text[:-1]
    return text + " ..."


def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font that matplotlib ships: a wide choice of letters for class names, the same on every machine.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
