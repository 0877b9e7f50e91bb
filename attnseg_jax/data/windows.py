"""Very large files as arrays that are read where they are indexed, without decoding the rest of them.

TIFF files in tiles or strips, without compression or with one that tifffile decodes, and NumPy files. All others are
decoded whole.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from attnseg_jax.data import arrays, bands, tiff_pieces
from attnseg_jax.data.mask_ids import ids_of_colours
from attnseg_jax.errors import UserError

LARGE = 1 << 25
"""From so many pixels on a picture is very large: training reads its crops alone, prediction bands of its rows."""

# Rows that are read at once where all are.
_ROWS = 1024
# Values of tags of TIFF: a palette, and compressions that change values.
_PALETTE, _LOSSY = 3, (6, 7, 33003, 33005, 34712, 34892, 50001, 50002)

Read = Callable[[slice, slice], np.ndarray]


def is_large(array: Any) -> bool:
    """Whether an array [h, w, ...], or one with such a shape, has so many pixels."""
    return array.shape[0] * array.shape[1] >= LARGE


@dataclass(frozen=True)
class FileArray:
    """An array [h, w, ...] in a file.  `array[top:bottom, left:right]` reads that part, anything else all of it.

    Attributes:
      shape: of the whole.
      dtype: of the values.
      read: gives the part of some rows and columns.
    """

    shape: tuple[int, ...]
    dtype: Any
    read: Read

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, tuple) and len(key) == 2 and all(isinstance(k, slice) and k.step is None for k in key):
            rows, columns = (slice(*k.indices(n)[:2]) for k, n in zip(key, self.shape))
            return self.read(rows, columns)
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(slice(0, self.shape[0]), slice(0, self.shape[1])), dtype)

    def mapped(self, change: Callable[[np.ndarray], np.ndarray], dtype: Any) -> "FileArray":
        """The array of what `change` makes of each part, pixel by pixel."""
        return FileArray(self.shape, np.dtype(dtype), lambda rows, columns: change(self.read(rows, columns)))


def in_bands(array: np.ndarray | FileArray) -> Iterator[np.ndarray]:
    """All of an array; one in a file some rows at a time."""
    if not isinstance(array, FileArray):
        yield array
        return
    for top in range(0, array.shape[0], _ROWS):
        yield array[top : top + _ROWS, :]


def image_in(paths: Sequence[Path], channels: int) -> FileArray | None:
    """The image that `decode_image` or `decode_bands` gives, unread; None where it is not large, or not to be had so.

    Args:
      paths: of its files.
      channels: `config.data.channels`.
    """
    readers = [channels_in(path, rgb=not channels) for path in paths]
    if None in readers or len({reader.shape[:2] for reader in readers}) > 1 or not is_large(readers[0]):
        return None
    if not channels:
        h, w, _ = readers[0].shape
        read = readers[0].read
        return FileArray((h, w, 3), np.dtype(np.uint8), lambda y, x: tiff_pieces.as_rgb(read(y, x)))
    if sum(reader.shape[2] for reader in readers) != channels:
        return None

    def joined(rows: slice, columns: slice) -> np.ndarray:
        return bands.joined(paths, [reader.read(rows, columns) for reader in readers], channels)

    kind = np.uint8 if all(reader.dtype == np.uint8 for reader in readers) else np.float32
    return FileArray((*readers[0].shape[:2], channels), np.dtype(kind), joined)


def mask_in(path: Path, colors: Sequence[tuple[int, int, int]], *, nearest: bool) -> FileArray | None:
    """The raw ids that `decode_mask` gives, unread; None where they are not to be had so."""
    if arrays.is_npy(path):
        raw = arrays.load(path, mmap_mode="r")
        if colors or raw.ndim != 2 or raw.dtype.kind not in "ui":
            return None
        return FileArray(raw.shape, raw.dtype, lambda y, x: np.array(arrays.load(path, mmap_mode="r")[y, x]))
    fits = _lossless_colours if colors else _values
    found = _of_tiff(path, lambda file: file.pages[:1] if fits(file.pages[0]) else ())
    if found is None:
        return None

    def read(rows: slice, columns: slice) -> np.ndarray:
        pixels = found.read(rows, columns)
        return ids_of_colours(tiff_pieces.as_rgb(pixels), str(path), colors, nearest) if colors else pixels[..., 0]

    return FileArray(found.shape[:2], np.dtype(np.int64) if colors else found.dtype, read)


def _lossless_colours(page: Any) -> bool:
    return tiff_pieces.is_rgb(page) and page.compression not in _LOSSY


def _values(page: Any) -> bool:
    """Whether a page in pieces holds gray values or indices of 8 or 16 bits."""
    gray = page.photometric == tiff_pieces.GRAY or (page.photometric == _PALETTE and page.dtype == np.uint8)
    plain = page.dtype in (np.uint8, np.uint16) and page.bitspersample == 8 * page.dtype.itemsize
    single = page.samplesperpixel == 1 and page.compression not in _LOSSY
    return plain and gray and single and tiff_pieces.in_pieces(page)


def channels_in(path: Path, *, rgb: bool = False) -> FileArray | None:
    """The channels of one file as stored, unread; with `rgb` those of a gray or RGB picture. None of another file."""
    if arrays.is_npy(path):
        return None if rgb else _of_npy(path)
    if rgb:
        return _of_tiff(path, lambda file: file.pages[:1] if tiff_pieces.is_rgb(file.pages[0]) else ())
    return _of_tiff(path, bands.pages_in_pieces)


def _of_npy(path: Path) -> FileArray | None:
    def read(rows: slice, columns: slice) -> np.ndarray:
        part = np.array(arrays.load(path, mmap_mode="r")[rows, columns])
        return part.reshape(*part.shape[:2], -1)

    found = arrays.load(path, mmap_mode="r")
    if found.ndim not in (2, 3) or found.dtype.kind not in bands.KINDS or not found.size:
        return None
    return FileArray((*found.shape[:2], 1 if found.ndim == 2 else found.shape[2]), found.dtype, read)


def _of_tiff(path: Path, pages: Callable[[Any], Sequence[Any]]) -> FileArray | None:
    """What some pages of a TIFF file hold, of which the first pixel can be decoded; None of another file."""
    if path.suffix.lower() not in bands.TIFF:
        return None
    try:
        import tifffile
    except ImportError:
        return None

    def read(rows: slice, columns: slice) -> Shaped[np.ndarray, "y x c"]:
        try:
            with tifffile.TiffFile(path) as file:
                return tiff_pieces.Pieces(path, pages(file)).part(rows, columns)
        except (OSError, tifffile.TiffFileError) as error:
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}): restore or remove it") from None

    try:
        with tifffile.TiffFile(path) as file:
            chosen = pages(file)
            if not chosen:
                return None
            pieces = tiff_pieces.Pieces(path, chosen)
            if is_large(pieces):
                pieces.part(slice(0, 1), slice(0, 1))
            return FileArray(pieces.shape, pieces.dtype, read)
    except Exception:
        # What damaged headers raise has no common class; decoding the whole file says what is wrong with it.
        return None
