"""Where a TIFF file lies on a map (GeoTIFF 1.1, OGC 19-008r4), and how large it is, from its tags alone."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from attnseg_jax.data.bands import TIFF
from attnseg_jax.data.windows import LARGE

_WIDTH, _HEIGHT = 256, 257
_SCALE, _TIES, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
# The keys, and what they refer to; types of TIFF: 3 is SHORT, 2 ASCII, 12 DOUBLE.
_TYPES = {_SCALE: 12, _TIES: 12, _MATRIX: 12, _KEYS: 3, 34736: 12, 34737: 2}
_RASTER, _GEOGRAPHIC, _PROJECTED, _POINT, _OWN = 1025, 2048, 3072, 2, 32767


@dataclass(frozen=True, eq=False)
class Place:
    """Where an image lies.

    Attributes:
      tags: number -> (type, values) of the tags that say so.
    """

    tags: dict[int, tuple[int, Any]]

    @property
    def affine(self) -> Float[np.ndarray, "2 3"]:
        """From corners of pixels (x, y, 1) to coordinates of the map."""
        if _MATRIX in self.tags:
            found = np.array(self.tags[_MATRIX][1], float).reshape(4, 4)[:2][:, [0, 1, 3]]
        else:
            (i, j, _, x, y, _), (sx, sy, *_) = self.tags[_TIES][1][:6], self.tags[_SCALE][1]
            found = np.array([[sx, 0, x - i * sx], [0, -sy, y + j * sy]], float)
        # Of files whose coordinates are those of the middles of pixels.
        shift = 0.5 if self._key(_RASTER) == _POINT else 0.0
        return found - np.stack([0 * found[:, 0], 0 * found[:, 0], shift * found[:, :2].sum(1)], -1)

    @property
    def epsg(self) -> int | None:
        """The code of the map's coordinates, where they have one."""
        code = self._key(_PROJECTED) or self._key(_GEOGRAPHIC)
        return None if code in (0, _OWN) else code

    def _key(self, wanted: int) -> int:
        keys = np.array(self.tags[_KEYS][1]).reshape(-1, 4)[1:] if _KEYS in self.tags else []
        return next((int(value) for key, where, _, value in keys if key == wanted and where == 0), 0)


def is_tiff(path: Path | None) -> bool:
    """Whether a file is named like a TIFF file."""
    return path is not None and path.suffix.lower() in TIFF


def size_of(path: Path) -> tuple[int, int] | None:
    """Height and width of a TIFF file; None of another file, or one that is damaged."""
    tags = _tags(path)
    return (int(tags[_HEIGHT]), int(tags[_WIDTH])) if {_HEIGHT, _WIDTH} <= {*tags} else None


def is_large(path: Path | None) -> bool:
    """Whether a file is a TIFF file of so many pixels that it is predicted by bands (see `inference.large`)."""
    size = size_of(path) if is_tiff(path) else None
    return size is not None and size[0] * size[1] >= LARGE


def place_of(path: Path | None) -> Place | None:
    """Where a TIFF file lies; None where it does not say."""
    tags = _tags(path) if is_tiff(path) else {}
    found = {number: (kind, tags[number]) for number, kind in _TYPES.items() if number in tags}
    return Place(found) if _MATRIX in found or {_SCALE, _TIES} <= {*found} else None


def mask_bytes(mask: Integer[np.ndarray, "h w"], palette: UInt8[np.ndarray, "k 3"], place: Place | None) -> bytes:
    """A mask as a TIFF file, with a `place` a GeoTIFF one: classes with a palette, 16 bits gray beyond 256 classes."""
    info = ImageFileDirectory_v2()
    for tag, (kind, values) in place.tags.items() if place else ():
        info.tagtype[tag] = kind
        info[tag] = values
    picture = Image.fromarray(mask)
    if mask.dtype == np.uint8:
        picture = picture.convert("P")
        picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF", tiffinfo=info, compression="tiff_deflate")
    return buffer.getvalue()


def _tags(path: Path) -> dict[int, Any]:
    # Pillow itself opens no picture that is very large.
    try:
        with path.open("rb") as file:
            header = file.read(8)
            directory = ImageFileDirectory_v2(header + file.read(8) if header[2:3] == b"+" else header)
            file.seek(directory.next)
            directory.load(file)
            return dict(directory)
    except Exception:
        # What a damaged header raises has no common class; the error is that of reading the picture.
        return {}
