"""An image of a report: input, truth, prediction, kinds of errors, confidence, and what each point attends to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from matplotlib import colormaps
from PIL import Image

from attnseg_jax.evaluation.boundary_iou import sliding
from attnseg_jax.evaluation.error_kinds import KINDS, error_kinds
from attnseg_jax.evaluation.suspects import Suspect
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.plots.drawing import brightened
from attnseg_jax.plots.html import figure, text
from attnseg_jax.plots.sheet import coloured

KIND_COLOURS = dict(zip(KINDS, ((255, 214, 10), (255, 32, 78), (0, 190, 255), (200, 90, 255)), strict=True))
"""Colours of wrong pixels."""

_WIDEST, _CROP = 480, 480
_OUTLINE = (255, 32, 78)


@dataclass(frozen=True, eq=False)
class Explained:
    """An image with what a model makes of it.

    Attributes:
      title: of it.
      image: its pixels.
      truth: train ids, 255 where unknown.
      prediction: train ids.
      sure: probability of the predicted class; None of masks without a model.
      look: of `look.look_data`; empty where nothing can be looked at.
    """

    title: str
    image: UInt8[np.ndarray, "h w 3"]
    truth: Integer[np.ndarray, "h w"]
    prediction: Integer[np.ndarray, "h w"]
    sure: Float[np.ndarray, "h w"] | None = None
    look: Mapping[str, Any] = field(default_factory=dict)


def section(found: Explained, number: int, palette: UInt8[np.ndarray, "k 3"]) -> str:
    """The part of a page about an image; `number` is its own on the page."""
    shown, factor = brightened(found.image)
    kinds = error_kinds(found.truth, found.prediction)
    counts = {kind: int((kinds == i).sum()) for i, kind in enumerate(KINDS)}
    wrong, known = sum(counts.values()), int((found.truth != IGNORE_LABEL).sum())
    words = ", ".join(f"{kind} {count / wrong:.0%}" for kind, count in counts.items() if count)
    bright = f" Drawn {factor:.3g} times as bright." if factor > 1 else ""
    panels = [
        figure("input", _reduced(shown), photo=True),
        figure("truth", _flat(coloured(found.truth, palette))),
        figure("prediction", _flat(coloured(found.prediction, palette))),
        figure("errors", _reduced(_errors(shown, kinds, found.truth)), photo=True),
    ]
    if found.sure is not None:
        panels.append(figure("confidence: dark unsure, bright sure", _reduced(_heat(found.sure)), photo=True))
    look = ""
    if found.look.get("records"):
        panels.append(_LOOK.format(title=text(found.title), number=number))
        # "</" would end the script.
        data = json.dumps(found.look, separators=(",", ":")).replace("</", "<\\/")
        look = f'<script type="application/json" class="look-data">{data}</script>'
    errors = f"{wrong / known:.1%} of its pixels are wrong: {words}." if wrong else "No pixel is wrong."
    return (
        f'<section class="explained"><h3>{text(found.title)}</h3><p>{errors}{bright}</p>'
        f'<div class="panels">{"".join(panels)}</div>{look}</section>'
    )


_LOOK = (
    '<figure class="look" hidden><div class="stage" tabindex="0" role="application" '
    'aria-label="what a point of {title} attends to: arrow keys move the point" aria-describedby="look-{number}">'
    '<img alt=""><canvas></canvas><span class="mark"></span></div><figcaption>'
    '<label>attention <select></select></label> <output id="look-{number}" aria-live="polite"></output>'
    "</figcaption></figure>"
)


def suspect_picture(found: Suspect, image: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    """The surroundings of a suspect label, with an outline around it."""
    shown, _ = brightened(image)
    h, w = image.shape[:2]
    mask = np.zeros((h, w), bool)
    bottom, right = found.top + found.mask.shape[0], found.left + found.mask.shape[1]
    mask[found.top : bottom, found.left : right] = found.mask
    # A square, for several pictures beside each other.
    reach = max(24, *found.mask.shape)
    y, x = (found.top + bottom) // 2, (found.left + right) // 2
    box = np.s_[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
    outline = sliding(mask, 1, np.maximum, False) & ~mask
    picture = np.where(outline[..., None], np.uint8(_OUTLINE), shown)[box]
    factor = max(1, _CROP // max(picture.shape[:2]))
    return _reduced(picture.repeat(factor, 0).repeat(factor, 1))


def _errors(image: np.ndarray, kinds: np.ndarray, truth: np.ndarray) -> np.ndarray:
    panel = np.asarray(Image.fromarray(image).convert("L"))[..., None] // 2 + np.full(3, 24, np.uint8)
    panel[truth == IGNORE_LABEL] = 200
    for i, colour in enumerate(KIND_COLOURS.values()):
        panel[kinds == i] = colour
    return panel


def _heat(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return (255 * colormaps["inferno"](values)[..., :3]).astype(np.uint8)


def _reduced(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    factor = -(-picture.width // _WIDEST)
    return picture.reduce(factor) if factor > 1 else picture


def _flat(pixels: np.ndarray) -> Image.Image:
    """Colours of classes, of which none must be a mixture."""
    factor = -(-pixels.shape[1] // _WIDEST)
    picture = Image.fromarray(np.ascontiguousarray(pixels[factor // 2 :: factor, factor // 2 :: factor]))
    return picture.quantize(256, dither=Image.Dither.NONE) if len(picture.getcolors(256) or ()) else picture
