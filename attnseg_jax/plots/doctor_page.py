"""The report of the doctor: one page of HTML that needs no network, with pictures of samples in it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.plots.drawing import png_bytes
from attnseg_jax.plots.html import bar, document, figure, swatch, table, text
from attnseg_jax.plots.sheet import coloured

_WIDEST = 480
_SHOWN_VALUES = 40
_STRENGTH = 0.45


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    label: Integer[np.ndarray, "h w"],
    palette: UInt8[np.ndarray, "k 3"],
    *,
    tint: float = _STRENGTH,
) -> UInt8[np.ndarray, "h w 3"]:
    """An image under its classes: tinted in their colours, with full colour along their borders; void is striped."""
    void = label == IGNORE_LABEL
    border = np.zeros(label.shape, bool)
    for axis in (0, 1):
        changes = np.diff(label.astype(np.int16), axis=axis) != 0
        border |= np.pad(changes, [(0, 1) if i == axis else (0, 0) for i in (0, 1)])
        border |= np.pad(changes, [(1, 0) if i == axis else (0, 0) for i in (0, 1)])
    strength = np.where(border, 1.0, np.where(void, _STRENGTH, tint))[..., None]
    return (image * (1 - strength) + coloured(label, palette) * strength).round().astype(np.uint8)


def sample_picture(
    image: UInt8[np.ndarray, "h w 3"], label: Integer[np.ndarray, "h w"], palette: UInt8[np.ndarray, "k 3"]
) -> bytes:
    """A PNG of an image and, on its right, its `overlay`; large ones are reduced first, small ones enlarged."""
    h, w = label.shape
    factor = _WIDEST / w if w > _WIDEST else max(1, _WIDEST // (2 * w))
    size = (max(1, round(w * factor)), max(1, round(h * factor)))
    shown = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    classes = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    gap = np.full((size[1], 8, 3), 255, np.uint8)
    return png_bytes(Image.fromarray(np.concatenate([shown, gap, overlay(shown, classes, palette)], 1)))


def page(
    found: dict[str, Any],
    samples: Sequence[tuple[str, bytes]],
    classes: Sequence[tuple[str, tuple[int, ...]]],
    config: str,
    command: str,
) -> str:
    """The page.

    Args:
      found: a diagnosis as values.
      samples: titles and PNGs.
      classes: names and colours.
      config: text of the config; "" for none.
      command: that trains with it.
    """
    layout = found["layout"]
    form = f"{layout['images']} with {layout['masks']}" if layout["images"] else layout["names"]
    counts = ", ".join(f"{split} {count}" for split, count in found["pairs"].items())
    parts = [
        f"<h1>{text(found['data'])}</h1>",
        f"<p>Layout <code>{text(layout['name'])}</code>: <code>{text(form)}</code>. Pairs: {text(counts)}.</p>",
        _list_of_findings(found["findings"]),
        _figures(samples, classes),
        _histograms(found),
        _kinds(found),
    ]
    if config:
        parts.append(f"<h2>Config</h2><pre>{text(command)}</pre><pre>{text(config)}</pre>")
    return document(found["data"], parts)


def _list_of_findings(findings: Sequence[dict[str, Any]]) -> str:
    if not findings:
        return "<p>Nothing stands out.</p>"
    parts = ["<h2>What stands out</h2>"]
    for finding in findings:
        files = "".join(f"{text(name)}\n" for name in finding["files"])
        more = (
            f"<details><summary>files: {len(finding['files'])}</summary><pre>{files}</pre></details>" if files else ""
        )
        parts.append(f'<div class="finding {finding["level"]}">{text(finding["text"])}{more}</div>')
    return "".join(parts)


def _figures(samples: Sequence[tuple[str, bytes]], classes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    if not samples:
        return ""
    legend = " &nbsp; ".join(f"{swatch(colour)}{text(name)}" for name, colour in classes)
    figures = "".join(figure(title, data, width="29rem") for title, data in samples)
    return f"<h2>Samples, read as proposed</h2><p>{legend}</p>{figures}"


def _histograms(found: dict[str, Any]) -> str:
    """A row for each value: its share of the pixels of every split, and how many masks hold it."""
    splits = {split: values for split, values in found["values"].items() if values}
    if not splits:
        return ""
    meaning = {_key(raw): entry["name"] for entry in found["classes"] for raw in entry["raw"]}
    meaning |= {_key(raw): "ignored" for raw in found["ignored"]}
    totals = {split: sum(entry["pixels"] for entry in values) for split, values in splits.items()}
    by_value: dict[Any, dict[str, dict[str, Any]]] = {}
    for split, values in splits.items():
        for entry in values:
            by_value.setdefault(_key(entry["value"]), {})[split] = entry
    heads = ["value", "", *(head for split in splits for head in (text(split), "", "masks"))]
    rows = []
    for value, entries in list(by_value.items())[:_SHOWN_VALUES]:
        square = swatch(value) if isinstance(value, tuple) else ""
        row = [f"{square}{text(value)}", text(meaning.get(value, ""))]
        for split in splits:
            entry = entries.get(split, {"pixels": 0, "masks": 0})
            share = entry["pixels"] / totals[split]
            row += [f"{share:.2%}", bar(share), str(entry["masks"])]
        rows.append(row)
    more = f"<p>{len(by_value) - len(rows)} more values in the JSON.</p>" if len(by_value) > len(rows) else ""
    return f"<h2>Values of the masks</h2>{table(heads, rows)}{more}"


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _kinds(found: dict[str, Any], most: int = 12) -> str:
    rows = [("images", str(e["count"]), f"{e['format']} {e['mode']}") for e in found["images"]]
    rows += [("masks", str(e["count"]), f"{e['format']} {e['mode']}") for e in found["masks"]]
    sizes = found["sizes"]
    rows += [("size", str(e["count"]), f"{e['width']}x{e['height']}") for e in sizes[:most]]
    if len(sizes) > most:
        rows.append(("", "", f"and {len(sizes) - most} more"))
    return f"<h2>Files</h2>{table(('', '', ''), rows)}"
