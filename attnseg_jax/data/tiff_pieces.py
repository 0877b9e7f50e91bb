"""TIFF files by their pieces: of a part of a picture only the tiles or strips are decoded that it lies in."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from attnseg_jax.errors import UserError

PIECE = 1 << 28
"""Bytes of a piece, or of a row of pieces, at most: beyond it, a file is not one that is read by pieces."""

# Values of tags. Photometric interpretation: gray from black to white, RGB, YCbCr, which JPEG is decoded from.
GRAY, _RGB, _YCBCR, _JPEG = 1, 2, 6, 7
_PREMULTIPLIED = 1
_ORIENTATION = 274


class Pieces:
    """A picture of an open TIFF file as [h, w, c]; the pieces of the last part are kept for the next one.

    Attributes:
      path: of the file.
      shape: (h, w, c), where the channels of all pages follow each other.
      dtype: of the values.
      rows: of a piece; 1 in a file without compression whose rows follow each other.
    """

    def __init__(self, path: Path, pages: Sequence[Any]):
        self.path, self._pages = path, [page.aspage() for page in pages]
        first = self._pages[0]
        self.dtype = np.dtype(first.dtype)
        channels = sum(page.samplesperpixel for page in self._pages)
        self.shape = first.imagelength, first.imagewidth, channels
        self.rows = 1 if first.is_contiguous else min(_piece_size(first)[0], first.imagelength)
        self._held: dict[tuple[int, int], np.ndarray | None] = {}

    def part(self, rows: slice, columns: slice) -> Shaped[np.ndarray, "y x c"]:
        """The pixels of some rows and columns, both with start and stop inside the picture.

        Raises:
          UserError: a piece of them is damaged, or of a kind that tifffile does not decode as it is installed.
        """
        held, self._held = self._held, {}
        parts = [self._of_page(number, rows, columns, held) for number in range(len(self._pages))]
        return np.concatenate(parts, -1) if len(parts) > 1 else parts[0]

    def _of_page(self, number: int, rows: slice, columns: slice, held: dict) -> np.ndarray:
        page = self._pages[number]
        planes, samples = (page.samplesperpixel, 1) if page.planarconfig == 2 else (1, page.samplesperpixel)
        if page.is_contiguous:
            shape = planes, page.imagelength, page.imagewidth, samples
            found = np.array(self._mapped(page, shape)[:, rows, columns])
        else:
            found = np.full(
                (planes, rows.stop - rows.start, columns.stop - columns.start, samples), page.nodata, self.dtype
            )
            length, width = _piece_size(page)
            down, across = -(-page.imagelength // length), -(-page.imagewidth // width)
            for plane in range(planes):
                for y in range(rows.start // length, -(-rows.stop // length)):
                    for x in range(columns.start // width, -(-columns.stop // width)):
                        key = number, (plane * down + y) * across + x
                        self._held[key] = held[key] if key in held else self._decoded(page, key[1])
                        if self._held[key] is not None:
                            _lay(found[plane], self._held[key], y * length - rows.start, x * width - columns.start)
        return found[0] if planes == 1 else np.moveaxis(found[..., 0], 0, -1)

    def _mapped(self, page: Any, shape: tuple[int, ...]) -> np.ndarray:
        kind = self.dtype.newbyteorder(page.parent.byteorder)
        try:
            return np.memmap(self.path, kind, "r", page.dataoffsets[0], shape)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _decoded(self, page: Any, index: int) -> Shaped[np.ndarray, "y x c"] | None:
        """A tile or strip; None for one that the file leaves out."""
        if not (page.databytecounts[index] and page.dataoffsets[index]):
            return None
        try:
            file = page.parent.filehandle
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
            return page.decode(data, index, jpegtables=page.jpegtables)[0][0]
        except Exception as error:
            # What a codec raises, or that it is missing, has no common class.
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path}: cannot be decoded ({' '.join(str(error).split())})")


def _piece_size(page: Any) -> tuple[int, int]:
    return (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)


def _lay(canvas: np.ndarray, piece: np.ndarray, y: int, x: int) -> None:
    """Puts a piece into a canvas, at a place that may begin before it; what reaches over its rim is left out."""
    top, left = max(0, y), max(0, x)
    piece = piece[top - y : len(canvas) - y, left - x : canvas.shape[1] - x]
    canvas[top : top + piece.shape[0], left : left + piece.shape[1]] = piece


def in_pieces(page: Any) -> bool:
    """Whether a page is stored upright, in pieces that are small enough."""
    size = math.prod(_piece_size(page)) * page.samplesperpixel * (page.dtype.itemsize if page.dtype else 1)
    small = page.is_contiguous or size <= PIECE
    return (
        small and page.dtype is not None and page.imagedepth == 1 and orientation(page) == 1 and not page.is_subsampled
    )


def orientation(page: Any) -> int:
    """How a page is stored, 1 for upright, as EXIF counts it; 1 where it does not say."""
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag and tag.value in range(1, 9) else 1


def is_rgb(page: Any) -> bool:
    """Whether a page in pieces is 8-bit gray or RGB, with channels side by side; a fourth one may be alpha."""
    colours = page.photometric == _RGB or (page.photometric == _YCBCR and page.compression == _JPEG)
    fits = (colours and page.samplesperpixel in (3, 4)) or (page.photometric == GRAY and page.samplesperpixel == 1)
    plain = page.dtype == np.uint8 and page.bitspersample == 8 and page.planarconfig == 1
    return in_pieces(page) and plain and fits and _PREMULTIPLIED not in page.extrasamples


def as_rgb(pixels: Shaped[np.ndarray, "h w c"]) -> Shaped[np.ndarray, "h w 3"]:
    """The pixels of such a page as RGB."""
    return np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels[..., :3]
