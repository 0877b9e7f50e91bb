"""How many pixels a picture may have that is decoded whole: `config.data.max_pixels`, by its header alone."""

import io
import re
from pathlib import Path

from PIL import Image

from attnseg_jax.data import arrays, bands
from attnseg_jax.errors import UserError

MAX_PIXELS = 178_956_970
"""The default, which is Pillow's own limit."""


def allow(limit: int) -> None:
    """Lets Pillow open pictures of so many pixels."""
    if Image.MAX_IMAGE_PIXELS is not None and limit > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit


def is_beyond(path: Path, limit: int) -> bool:
    """Whether a picture has more pixels, by its header."""
    return _pixels(path)[0] > limit


def check_pixels(data: Path | bytes, name: str, limit: int) -> None:
    """Raises UserError for a picture of more pixels; one that cannot be read is left to what decodes it."""
    pixels, words = _pixels(data)
    if pixels > limit:
        raise UserError(
            f"{name}: the picture has {words}{pixels:,} pixels, and config.data.max_pixels={limit:,}: cut it into "
            f"smaller ones, or where the memory holds it set --config.data.max_pixels={pixels}; to be trained on, but "
            "not evaluated, it may be a TIFF in tiles"
        )


def _pixels(data: Path | bytes) -> tuple[int, str]:
    """How many there are, and their rows and columns in words."""
    try:
        if arrays.is_npy(data):
            h, w = arrays.load(data, mmap_mode="r").shape[:2]
        else:
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
                w, h = image.size
    except Image.DecompressionBombError as error:
        # Pillow does not tell its rows and columns.
        return int(re.search(r"\d+", str(error))[0]), ""
    except Exception:
        # Kinds of TIFF that Pillow does not know, and what is damaged.
        h, w = (bands.header_size(data) if isinstance(data, Path) else None) or (0, 0)
    return h * w, f"{w:,} x {h:,} = "
