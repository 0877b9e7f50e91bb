"""Pictures that are not 8-bit RGB, of any number of channels: 16-bit and float, TIFF, NumPy files, several files.

They are read as they are: uint8 where the files are, float32 otherwise.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from attnseg_jax.data import arrays, decode, tiff_pieces
from attnseg_jax.data.png16 import read_png16
from attnseg_jax.errors import UserError

TIFF = (".tif", ".tiff")

KINDS = "uif"
"""Of the types of numbers that pictures hold."""


def decode_bands(paths: Sequence[Path], channels: int | None = None) -> Shaped[np.ndarray, "h w c"]:
    """The channels of all files of a picture, in that order; uint8, or float32 where a file has another type.

    Args:
      paths: of the files, whose pictures have one size.
      channels: how many there must be together.

    Raises:
      UserError: a file is damaged or of a kind that is not read, or sizes, channels or values are no picture's.
    """
    return joined(paths, [read_file(path) for path in paths], channels)


def joined(
    paths: Sequence[Path], parts: Sequence[Shaped[np.ndarray, "h w _"]], channels: int | None = None
) -> Shaped[np.ndarray, "h w c"]:
    """`decode_bands` of what was read of each file."""
    for path, part in zip(paths, parts):
        if part.shape[:2] != parts[0].shape[:2]:
            raise UserError(
                f"{path}: the file is {_words(part)} pixels, {paths[0].name} of the same picture {_words(parts[0])}; "
                "all bands must have one size"
            )
    found = sum(part.shape[-1] for part in parts)
    if channels is not None and found != channels:
        files = f"{len(paths)} files together have" if len(paths) > 1 else "the picture has"
        raise UserError(
            f"{paths[0]}: {files} {found} channel{'s' if found > 1 else ''}, and config.data.channels={channels}"
        )
    if all(part.dtype == np.uint8 for part in parts):
        return np.concatenate(parts, -1) if len(parts) > 1 else parts[0]
    pixels = np.concatenate([part.astype(np.float32) for part in parts], -1)
    if not np.isfinite(pixels).all():
        raise UserError(f"{paths[0]}: the picture holds values that are not finite: write a number in their place")
    return pixels


def _words(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def bands_size(path: Path) -> tuple[int, int]:
    """(h, w) of a file that `decode_bands` reads."""
    if arrays.is_npy(path):
        return arrays.load(path, mmap_mode="r").shape[:2]
    # Pillow does not know all kinds of TIFF.
    if path.suffix.lower() in TIFF:
        return header_size(path) or read_file(path).shape[:2]
    return decode.decode_size(path, str(path))


def header_size(path: Path) -> tuple[int, int] | None:
    """(h, w) of a TIFF, upright, by its header; None where tifffile does not know it, or is not there."""
    try:
        import tifffile

        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            h, w = (series.shape[series.axes.index(axis)] for axis in "YX")
            return (w, h) if decode.UPRIGHT[tiff_pieces.orientation(file.pages[0])][0] else (h, w)
    except Exception:
        # What damaged headers raise has no common class; decoding says what is wrong.
        return None


def read_file(path: Path) -> Shaped[np.ndarray, "h w c"]:
    """The channels of one file in the type that it has; errors as of `decode_bands`."""
    suffix = path.suffix.lower()
    if arrays.is_npy(path):
        pixels = arrays.load(path)
    elif suffix in TIFF:
        pixels = _tiff(path)
    else:
        pixels = decode.opened(path, str(path), lambda image: pixels_of(image, path), verified=True)
    if pixels.dtype.kind not in KINDS or pixels.ndim not in (2, 3) or not pixels.size:
        raise UserError(
            f"{path}: an array of {pixels.dtype} {pixels.shape} is no picture: numbers [h, w] or [h, w, c] are"
        )
    return pixels.reshape(*pixels.shape[:2], -1)


def pixels_of(image: Image.Image, path: Path) -> Shaped[np.ndarray, "h w *c"]:
    """The pixels of an open picture as stored, upright; of a palette picture its colours.  UserError naming `path`."""
    # Before anything decodes the pixels: Pillow then forgets how the file stores them.
    cut = decode.is_cut(image)
    orientation = decode.orientation_of(image)
    if cut:
        if image.format != "PNG":
            raise UserError(f"{path}: {image.format} of 16-bit colours is not read: save it as TIFF or PNG")
        return decode.upright(read_png16(path), orientation)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    return decode.upright(np.asarray(image), orientation)


def _tiff(path: Path) -> np.ndarray:
    """All bands and pages of a TIFF, in that order."""
    try:
        import tifffile
    except ImportError:
        tifffile = None
    try:
        if tifffile is not None:
            with tifffile.TiffFile(path) as file:
                return _of_series(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}): restore or remove it") from None
    except Exception as error:
        # Whatever its codecs raise; Pillow may have those that tifffile lacks.
        reason = " ".join(str(error).split())
    else:
        reason = 'that takes tifffile, pip install "attnseg_jax[tiff]"'
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            if getattr(image, "n_frames", 1) == 1 and not decode.is_cut(image):
                # Pillow turns it itself.
                return np.asarray(image)
    except (OSError, SyntaxError, ValueError, TypeError):
        pass
    raise UserError(f"{path}: this TIFF cannot be read: {reason}; files without compression, and deflated ones, can be")


def _of_series(file: Any) -> np.ndarray:
    """The first picture of an open TIFF as [h, w, c], with others of its size and type as further channels."""
    parts = []
    for series in _alike(file):
        pixels = series.asarray()
        y, x = series.axes.index("Y"), series.axes.index("X")
        pixels = np.moveaxis(pixels, (y, x), (0, 1))
        parts.append(pixels.reshape(*pixels.shape[:2], -1))
    return decode.upright(np.concatenate(parts, -1), tiff_pieces.orientation(file.pages[0]))


def _alike(file: Any) -> list[Any]:
    first = file.series[0]
    return [series for series in file.series if (series.shape, series.dtype) == (first.shape, first.dtype)]


def pages_in_pieces(file: Any) -> list[Any]:
    """The pages of an open TIFF whose channels `read_file` gives, in order; [] where they are not all in pieces."""
    found = []
    for series in _alike(file):
        pages = [page.aspage() for page in series.pages if page is not None]
        # Of some kinds a page stands for several pictures.
        if sum(page.size for page in pages) != series.size or not all(tiff_pieces.in_pieces(page) for page in pages):
            return []
        found += pages
    return found if found[0].dtype.kind in KINDS else []
