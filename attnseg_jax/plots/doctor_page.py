"""The report of the doctor: one page of HTML that needs no network, with pictures of samples in it."""

import base64
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.plots.drawing import png_bytes
from attnseg_jax.plots.sheet import stripes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1e; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
code, pre { font: 13px/1.5 ui-monospace, monospace }
pre { background: #f4f4f5; padding: .7rem; overflow-x: auto } table { border-collapse: collapse }
td, th { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; font-weight: normal }
th { color: #6e6e73; border-bottom: 1px solid #d8d8dc } .bar { background: #30638e; height: .7rem; min-width: 1px }
.error { border-left: 4px solid #d1344b } .warning { border-left: 4px solid #e0a100 }
.note { border-left: 4px solid #a8a8ad } .finding { padding: .2rem .8rem; margin: .5rem 0 }
details { color: #55555a } figure { display: inline-block; margin: .4rem .8rem .4rem 0 }
figcaption { font-size: 13px; color: #55555a } img { max-width: 29rem; display: block }
.swatch { display: inline-block; width: .9rem; height: .9rem; vertical-align: -.1rem; border: 1px solid #0003 }
"""
_WIDEST = 480
_SHOWN_VALUES = 40
_STRENGTH = 0.45


def overlay(
    image: UInt8[np.ndarray, "h w 3"], label: Integer[np.ndarray, "h w"], palette: UInt8[np.ndarray, "k 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """An image under its classes: tinted in their colours, with full colour along their borders; void is striped."""
    void = label == IGNORE_LABEL
    colours = np.where(void[..., None], stripes(*label.shape), palette[np.where(void, 0, label)])
    border = np.zeros(label.shape, bool)
    for axis in (0, 1):
        changes = np.diff(label.astype(np.int16), axis=axis) != 0
        border |= np.pad(changes, [(0, 1) if i == axis else (0, 0) for i in (0, 1)])
        border |= np.pad(changes, [(1, 0) if i == axis else (0, 0) for i in (0, 1)])
    strength = np.where(border, 1.0, _STRENGTH)[..., None]
    return (image * (1 - strength) + colours * strength).round().astype(np.uint8)


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
        f"<h1>{_text(found['data'])}</h1>",
        f"<p>Layout <code>{_text(layout['name'])}</code>: <code>{_text(form)}</code>. Pairs: {_text(counts)}.</p>",
        _list_of_findings(found["findings"]),
        _figures(samples, classes),
        _histograms(found),
        _kinds(found),
    ]
    if config:
        parts.append(f"<h2>Config</h2><pre>{_text(command)}</pre><pre>{_text(config)}</pre>")
    head = f'<meta charset="utf-8"><title>{_text(found["data"])}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(filter(None, parts))}</body></html>\n"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _list_of_findings(findings: Sequence[dict[str, Any]]) -> str:
    if not findings:
        return "<p>Nothing stands out.</p>"
    parts = ["<h2>What stands out</h2>"]
    for finding in findings:
        files = "".join(f"{_text(name)}\n" for name in finding["files"])
        more = (
            f"<details><summary>files: {len(finding['files'])}</summary><pre>{files}</pre></details>" if files else ""
        )
        parts.append(f'<div class="finding {finding["level"]}">{_text(finding["text"])}{more}</div>')
    return "".join(parts)


def _figures(samples: Sequence[tuple[str, bytes]], classes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    if not samples:
        return ""
    legend = " &nbsp; ".join(
        f'<span class="swatch" style="background:rgb{tuple(colour)}"></span> {_text(name)}' for name, colour in classes
    )
    figures = "".join(
        f'<figure><img alt="{_text(title)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{_text(title)}</figcaption></figure>"
        for title, data in samples
    )
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
    heads = "".join(f"<th>{_text(split)}</th><th></th><th>masks</th>" for split in splits)
    rows = []
    for value, entries in list(by_value.items())[:_SHOWN_VALUES]:
        cells = [f"<td>{_swatch(value)}{_text(value)}</td><td>{_text(meaning.get(value, ''))}</td>"]
        for split in splits:
            entry = entries.get(split, {"pixels": 0, "masks": 0})
            share = entry["pixels"] / totals[split]
            bar = f'<div class="bar" style="width:{8 * share:.2f}rem"></div>' if entry["pixels"] else ""
            cells.append(f"<td>{share:.2%}</td><td>{bar}</td><td>{entry['masks']}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    more = f"<p>{len(by_value) - len(rows)} more values in the JSON.</p>" if len(by_value) > len(rows) else ""
    return f"<h2>Values of the masks</h2><table><tr><th>value</th><th></th>{heads}</tr>{''.join(rows)}</table>{more}"


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _swatch(value: Any) -> str:
    return f'<span class="swatch" style="background:rgb{value}"></span> ' if isinstance(value, tuple) else ""


def _kinds(found: dict[str, Any], most: int = 12) -> str:
    rows = [f"<tr><td>images</td><td>{e['count']}</td><td>{e['format']} {e['mode']}</td></tr>" for e in found["images"]]
    rows += [f"<tr><td>masks</td><td>{e['count']}</td><td>{e['format']} {e['mode']}</td></tr>" for e in found["masks"]]
    sizes = found["sizes"]
    rows += [f"<tr><td>size</td><td>{e['count']}</td><td>{e['width']}x{e['height']}</td></tr>" for e in sizes[:most]]
    more = f"<tr><td></td><td></td><td>and {len(sizes) - most} more</td></tr>" if len(sizes) > most else ""
    return f"<h2>Files</h2><table>{''.join(rows)}{more}</table>"
