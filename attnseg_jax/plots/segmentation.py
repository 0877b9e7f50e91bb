"""Sheets of predictions beside the truth, and label maps as small files that any viewer shows."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.plots.drawing import write_png

ImageArray = UInt8[np.ndarray, "_ _ 3"]
LabelArray = Integer[np.ndarray, "_ _"]

WRONG = (255, 32, 78)
"""Colour of a wrong pixel in the column of errors."""
_VOID_LIGHT, _VOID_DARK = (244, 244, 244), (176, 176, 176)
_VOID_ERROR = 200  # lighter than any dimmed pixel
_INK, _FAINT = (28, 28, 30), (110, 110, 115)
_SMALL, _LARGE = 240, 640  # width in pixels below which a panel is upsampled, above which it is reduced
_MARGIN, _GAP = 24, 12


def prediction_sheet(
    images: Sequence[ImageArray],
    labels: Sequence[LabelArray],
    predictions: Sequence[LabelArray] | Mapping[str, Sequence[LabelArray]],
    class_names: Sequence[str],
    palette: UInt8[np.ndarray, "k 3"],
    path: str | os.PathLike,
    *,
    titles: Sequence[str] | None = None,
    errors: bool = True,
) -> None:
    """Writes one PNG: a row per sample with the columns input, truth, prediction and errors, and a legend below.

    `images` uint8 [h, w, 3], `labels` and `predictions` integers [h, w], sizes free per row; `palette` uint8 [k, 3].
    A mapping of predictions draws a column for each of its names ("without attention", "with attention"). `titles` are
    captions of the rows. Small images are upsampled and large ones reduced by a whole factor. Void (255) is striped; in
    the errors, wrong pixels are vivid on the dimmed gray input and void is plain gray. The legend names the classes
    that occur.

    Raises ValueError if the rows of the columns differ in number or a row's arrays in size.
    """
    if not isinstance(predictions, Mapping):
        predictions = {"prediction": predictions}
    rows = list(zip(images, labels, *predictions.values(), strict=True))
    for row, (image, *maps) in enumerate(rows):
        if any(m.shape != image.shape[:2] for m in maps):
            raise ValueError(f"row {row}: image {image.shape[:2]} with maps {[m.shape for m in maps]}")
    headers = ["input", "truth"]
    for name in predictions:
        headers += [name, "errors" if len(predictions) == 1 else f"errors {name}"] if errors else [name]
    panels = [_row_panels(image, truth, guesses, palette, errors) for image, truth, *guesses in rows]
    entries = _legend_entries([m for _, *maps in rows for m in maps], class_names, palette)
    if errors:
        entries.append(("wrong", _flat(WRONG)))
    write_png(path, _compose(panels, headers, titles, entries))


def comparison_sheet(
    labels: Sequence[LabelArray],
    predictions: Mapping[str, Sequence[LabelArray]],
    class_names: Sequence[str],
    palette: UInt8[np.ndarray, "k 3"],
    path: str | os.PathLike,
    *,
    titles: Sequence[str],
    images: Sequence[ImageArray] | None = None,
) -> None:
    """Writes one PNG: a column per sample, in it the input where `images` are given, the truth, and each prediction.

    `labels` and the predictions of each name are integers [h, w], sizes free per sample; `titles` stand above the
    columns. Scale, colours and legend are those of `prediction_sheet`.
    """
    blank = [np.zeros((*label.shape, 3), np.uint8) for label in labels]
    samples = zip(blank if images is None else images, labels, *predictions.values(), strict=True)
    columns = [_row_panels(image, truth, guesses, palette, False) for image, truth, *guesses in samples]
    rows = dict(zip(["input", "truth", *predictions], zip(*columns)))
    if images is None:
        del rows["input"]
    entries = _legend_entries([*labels, *(m for maps in predictions.values() for m in maps)], class_names, palette)
    write_png(path, _compose(list(rows.values()), titles, list(rows), entries))


def write_label_map(labels: LabelArray, palette: UInt8[np.ndarray, "k 3"], path: str | os.PathLike) -> None:
    """Writes integers [h, w] below 256 as the indices of one palette PNG, which shows them in their colours."""
    picture = Image.fromarray(labels.astype(np.uint8)).convert("P")
    picture.putpalette(palette.tobytes())
    write_png(path, picture, optimize=True)


def read_label_map(path: str | os.PathLike) -> LabelArray:
    """The integers [h, w] that `write_label_map` wrote."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def _row_panels(image, truth, guesses, palette, errors) -> list[np.ndarray]:
    up, down = _factors(image.shape[1])
    small = np.asarray(Image.fromarray(image).reduce(down)) if down > 1 else image
    truth, *guesses = (m[down // 2 :: down, down // 2 :: down] for m in (truth, *guesses))
    # `reduce` keeps a partial last cell, the strided maps may not.
    small = _upsample(small[: truth.shape[0], : truth.shape[1]], up)
    truth, *guesses = (_upsample(m, up) for m in (truth, *guesses))
    panels = [small, _colored(truth, palette)]
    for guess in guesses:
        panels.append(_colored(guess, palette))
        if errors:
            panels.append(_errors(small, truth, guess))
    return panels


def _factors(width: int) -> tuple[int, int]:
    return (max(1, -(-_SMALL // width)), 1) if width < _SMALL else (1, -(-width // _LARGE))


def _upsample(array: np.ndarray, factor: int) -> np.ndarray:
    return array.repeat(factor, 0).repeat(factor, 1)


def _colored(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    void = labels == IGNORE_LABEL
    colors = palette[np.where(void, 0, labels)]
    return np.where(void[..., None], _stripes(*labels.shape), colors)


def _stripes(height: int, width: int) -> np.ndarray:
    # Drawn at the size of the picture, so that no palette colour can be taken for void.
    dark = (np.arange(height)[:, None] + np.arange(width)) % 8 < 3
    return np.where(dark[..., None], np.uint8(_VOID_DARK), np.uint8(_VOID_LIGHT))


def _errors(image: np.ndarray, truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    gray = np.asarray(Image.fromarray(image).convert("L"))[..., None] // 2 + np.full(3, 24, np.uint8)
    wrong = ((truth != guess) & (truth != IGNORE_LABEL))[..., None]
    return np.where(wrong, np.uint8(WRONG), np.where((truth == IGNORE_LABEL)[..., None], np.uint8(_VOID_ERROR), gray))


def _flat(color) -> np.ndarray:
    return np.full((16, 16, 3), color, np.uint8)


def _legend_entries(maps, class_names, palette) -> list[tuple[str, np.ndarray]]:
    present = sorted(set().union(*(np.unique(m).tolist() for m in maps)))
    entries = [(class_names[i], _flat(palette[i])) for i in present if i != IGNORE_LABEL]
    return entries + ([("void", _stripes(16, 16))] if IGNORE_LABEL in present else [])


def _compose(panels, headers, titles, entries) -> Image.Image:
    """Headers, rows with captions, and the legend on one white picture."""
    widths = [max(row[c].shape[1] for row in panels) for c in range(len(headers))]
    size = int(np.clip(widths[0] / 16, 15, 26))
    font, small = _font(size), _font(max(13, round(size * 0.85)))
    # A column is at least as wide as its header.
    widths = [max(w, int(font.getlength(h)) + 1) for w, h in zip(widths, headers)]
    line, caption = round(size * 1.7), round(small.size * 1.6) if titles is not None else 0
    full = sum(widths) + _GAP * (len(widths) - 1)
    legend = _flow([small.getlength(name) for name, _ in entries], full, small.size)
    heights = [max(panel.shape[0] for panel in row) for row in panels]
    height = line + sum(heights) + (_GAP + caption) * len(heights) + (legend[-1][1] + line if legend else 0)
    sheet = Image.new("RGB", (full + 2 * _MARGIN, height + 2 * _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = _MARGIN + np.cumsum([0, *(w + _GAP for w in widths[:-1])])
    for left, width, header in zip(lefts, widths, headers):
        draw.text((left + width / 2, _MARGIN), header, _INK, font, anchor="ma")
    top = _MARGIN + line
    for i, row in enumerate(panels):
        if titles is not None:
            draw.text((_MARGIN, top), titles[i], _FAINT, small, anchor="la")
            top += caption
        for left, width, panel in zip(lefts, widths, row):
            sheet.paste(Image.fromarray(panel), (int(left) + (width - panel.shape[1]) // 2, top))
        top += heights[i] + _GAP
    for (name, swatch), (x, y) in zip(entries, legend):
        box = Image.fromarray(swatch).resize((small.size, small.size), Image.Resampling.NEAREST)
        place = (_MARGIN + round(x), top + _GAP + y)
        sheet.paste(box, place)
        draw.rectangle((*place, place[0] + small.size, place[1] + small.size), outline=_FAINT)
        draw.text((place[0] + small.size * 1.5, place[1] + small.size / 2), name, _INK, small, anchor="lm")
    return sheet


def _flow(lengths: Sequence[float], width: int, size: int) -> list[tuple[float, int]]:
    """Places of the legend's entries, in equal columns, as many to a line as fit."""
    if not lengths:
        return []
    step = max(lengths) + 3 * size
    columns = max(1, int((width + size) // step))
    return [(i % columns * step, i // columns * round(size * 1.7)) for i in range(len(lengths))]


def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font that matplotlib ships: a wide choice of letters for class names, the same on every machine.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)
