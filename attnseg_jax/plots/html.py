"""Pages of HTML that need no network: the document around their parts, text, pictures, bars."""

import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from attnseg_jax.plots.drawing import data_uri, png_bytes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1e; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
code, pre { font: 13px/1.5 ui-monospace, monospace }
pre { background: #f4f4f5; padding: .7rem; overflow-x: auto } table { border-collapse: collapse }
.wide { overflow-x: auto }
td, th { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top; font-weight: normal }
th { color: #55555a; border-bottom: 1px solid #d8d8dc } .bar { background: #30638e; height: .7rem; min-width: 1px }
tbody th { color: inherit; border: 0 } tbody th, .name { white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums }
.error { border-left: 4px solid #d1344b } .warning { border-left: 4px solid #e0a100 }
.note { border-left: 4px solid #a8a8ad } .finding { padding: .2rem .8rem; margin: .5rem 0 }
details { color: #55555a } figure { display: inline-block; margin: .4rem .8rem .4rem 0; max-width: 100% }
figcaption { font-size: 13px; color: #55555a } img { max-width: 100%; height: auto; display: block }
.swatch { display: inline-block; width: .9rem; height: .9rem; vertical-align: -.1rem; border: 1px solid #0003 }
.legend span + span { margin-left: .9rem } .legend > span { display: inline-block }
h3 { font-size: 1rem; margin: 1.4rem 0 0 } .explained p { margin: .2rem 0 .4rem }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: .6rem }
.panels figure { margin: 0 } .panels img { width: 100%; image-rendering: pixelated } .panels .look { display: block }
.panels .look[hidden], [hidden] { display: none }
@media (max-width: 40rem) { .panels { grid-template-columns: 1fr 1fr } .look { grid-column: 1 / -1 } }
.stage { position: relative; cursor: crosshair } .stage:focus { outline: 3px solid #30638e; outline-offset: 2px }
.stage img { filter: grayscale(1) } .stage canvas { position: absolute; inset: 0; width: 100%; height: 100% }
.mark { position: absolute; width: 12px; height: 12px; margin: -8px; border: 2px solid #00e5ff; border-radius: 50%;
  box-shadow: 0 0 0 1.5px #000, inset 0 0 0 1.5px #000; pointer-events: none }
"""


def document(title: str, parts: Iterable[str], script: str = "") -> str:
    """A whole page of the parts that are not empty; `script` is run at its end."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style>"
    )
    body = "".join(filter(None, parts)) + (f"<script>{script}</script>" if script else "")
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def text(value: Any) -> str:
    """A value as text of a page."""
    return html.escape(str(value))


def figure(title: str, picture: bytes | Image.Image, *, width: str = "", photo: bool = False) -> str:
    """A picture with its title below, which also stands for it where it is not seen.

    Args:
      title: of it.
      picture: the bytes of a PNG, or a picture.
      width: as CSS has it; "" for that of the page at most.
      photo: a picture becomes a JPEG, which is smaller.
    """
    kind = "jpeg" if photo and isinstance(picture, Image.Image) else "png"
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        if photo:
            picture.save(buffer, "JPEG", quality=88, subsampling=0)
        picture = buffer.getvalue() if photo else png_bytes(picture)
    style = f' style="width:{width}"' if width else ""
    return (
        f'<figure{style}><img alt="{text(title)}" src="{data_uri(picture, kind)}">'
        f"<figcaption>{text(title)}</figcaption></figure>"
    )


def bar(share: float, width: float = 8) -> str:
    """A horizontal bar of a share of `width` rem; nothing for 0."""
    return f'<div class="bar" style="width:{width * share:.2f}rem"></div>' if share > 0 else ""


def swatch(color: Sequence[int]) -> str:
    """A square of a colour, before a name."""
    # Its size, too: notebooks show it without the style of a page.
    look = f"display:inline-block;width:1em;height:1em;background:rgb{tuple(int(value) for value in color)}"
    return f'<span class="swatch" style="{look}"></span> '


def legend(names: Sequence[str], colours: Iterable[Sequence[int]]) -> str:
    """Names beside their colours."""
    cells = (f"<span>{swatch(colour)}{text(name)}</span> " for name, colour in zip(names, colours, strict=True))
    return f'<p class="legend">{"".join(cells)}</p>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """A table of cells of HTML whose first column names the rows; those of `numbers` stand on the right."""

    def attributes(column: int) -> str:
        return ' class="number"' if column in numbers else ""

    head = "".join(f"<th scope=col{attributes(i)}>{cell}</th>" for i, cell in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(
            f"<th scope=row>{cell}</th>" if not i else f"<td{attributes(i)}>{cell}</td>" for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
