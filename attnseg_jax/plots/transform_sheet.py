"""What training sees: samples before and after each transform, with the outlines of their classes."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from attnseg_jax.plots.doctor_page import overlay
from attnseg_jax.plots.sheet import compose

_WIDTH = 240

Shown = tuple[UInt8[np.ndarray, "h w 3"], Integer[np.ndarray, "h w"]]


def transform_sheet(
    rows: Mapping[str, Sequence[Shown]],
    titles: Sequence[str],
    class_names: Sequence[str],
    palette: UInt8[np.ndarray, "k 3"],
) -> Image.Image:
    """A contact sheet: a column for each sample, a row for each stage, whose name is its caption.

    What has no class is striped, as are the margins of padded crops.
    """
    panels = [[_panel(*shown, palette) for shown in of_stage] for of_stage in rows.values()]
    seen = np.unique(np.concatenate([np.unique(label) for of_stage in rows.values() for _, label in of_stage]))
    swatches = [(class_names[k], np.full((1, 1, 3), palette[k], np.uint8)) for k in seen if k < len(class_names)]
    return compose(panels, list(titles), list(rows), [swatches])


def _panel(
    image: UInt8[np.ndarray, "h w 3"], label: Integer[np.ndarray, "h w"], palette: UInt8[np.ndarray, "k 3"]
) -> UInt8[np.ndarray, "y x 3"]:
    h, w = label.shape
    size = _WIDTH, max(1, round(h * _WIDTH / w))
    shown = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    classes = np.asarray(Image.fromarray(label.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    return overlay(shown, classes, palette, tint=0.0)
