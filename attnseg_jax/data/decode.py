"""Encoded image and mask files to arrays, with Pillow alone (OpenCV and TensorFlow expand palette masks to RGB).

A photograph whose file says how it was held (EXIF orientation) is turned upright, as every viewer and annotation tool
shows it; so is a mask, whose file rarely says so.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Integer, Shaped, UInt8
from PIL import Image

from attnseg_jax.data import arrays
from attnseg_jax.data.mask_ids import ids_of_colours, to_train_ids
from attnseg_jax.errors import UserError, check_known

MASK_VALUES = ("exact", "nearest")
"""How the values of masks are read (`config.data.mask_values`)."""

MASK_SIZES = ("exact", "resized")
"""Whether masks may be of another size than their image (`config.data.mask_sizes`)."""

# EXIF tag, and by its value what turns the stored pixels upright: whether to exchange rows and columns, then to reverse
# the rows, then the columns.
_ORIENTATION = 0x0112
UPRIGHT = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
# Formats that change values as they like, where a mask needs each as it was.
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")
# What Pillow raises for files that are cut short or damaged, depending on where.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


def opened(data: Path | bytes, name: str, read: Callable[[Image.Image], Any], *, verified: bool = False) -> Any:
    """What `read` makes of an encoded image.  Raises UserError naming `name` where Pillow cannot decode it."""
    try:
        if verified:
            data = data.read_bytes() if isinstance(data, Path) else data
            with Image.open(io.BytesIO(data)) as image:
                # The checksums of PNG files, which Pillow leaves alone where it decodes pixels.
                image.verify()
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return read(image)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(
            f"{name}: a picture of more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels is not read: cut it into tiles"
        ) from None
    except DAMAGED as error:
        # Pillow names the object in memory that it was given.
        reason = re.sub(r" <_io\.BytesIO.*?>", "", " ".join(str(error).split())) or type(error).__name__
        raise UserError(
            f"{name}: cannot be decoded ({reason}); the file is truncated or damaged: restore or remove it"
        ) from error


def decode_size(data: Path | bytes, name: str) -> tuple[int, int]:
    """(h, w) of an encoded image, upright; pixels are decoded only where what precedes them has no EXIF data, in PNGs.

    Raises UserError naming `name`.
    """
    (w, h), orientation = opened(data, name, lambda image: (image.size, orientation_of(image)))
    return (w, h) if UPRIGHT[orientation][0] else (h, w)


def pages_of(image: Image.Image) -> int:
    """How many pictures of one size an opened file holds; 1 where the others are reduced copies of the first."""
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        size = image.size
        image.seek(1)
        pages = pages if image.size == size else 1
        image.seek(0)
    return pages


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of the pixels that Pillow gives: a key of `UPRIGHT`, 1 where the file says nothing."""
    if image.format == "TIFF":
        # Pillow turns these itself.
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except DAMAGED:
        # Damaged tags do not make the pixels unreadable.
        return 1
    return found if found in UPRIGHT else 1


def upright(pixels: Shaped[np.ndarray, "y x *c"], orientation: int) -> Shaped[np.ndarray, "h w *c"]:
    """Stored pixels turned as an EXIF orientation asks."""
    exchange, rows, columns = UPRIGHT[orientation]
    if orientation == 1:
        return pixels
    pixels = pixels.swapaxes(0, 1) if exchange else pixels
    return np.ascontiguousarray(pixels[:: -1 if rows else 1, :: -1 if columns else 1])


def decode_image(data: Path | bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image to RGB, upright; errors and conversions as of `rgb_pixels`."""
    if arrays.is_npy(data):
        raise UserError(f"{name}: a NumPy file is no RGB picture: config.data.channels says how many channels it has")

    def read(image: Image.Image) -> np.ndarray:
        if pages_of(image) > 1:
            logging.log_first_n(
                logging.WARNING, "%s: of several pictures in a file the first is read, here and elsewhere", 1, name
            )
        return rgb_pixels(image, name)

    return opened(data, name, read, verified=True)


def rgb_pixels(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a PIL picture as RGB, upright; gray, palette and alpha images are converted.

    A fourth channel is dropped, with a warning where it holds anything.  Raises UserError naming `name`.
    """
    if image.mode.startswith(("I", "F")) or is_cut(image):
        raise UserError(
            f"{name}: images of more than 8 bits a channel (mode {image.mode}) are read where config.data.channels "
            "says how many channels they have; attnseg-doctor writes such a config"
        )
    if image.mode in ("RGBA", "LA", "PA") and image.getchannel("A").getextrema() != (255, 255):
        logging.log_first_n(
            logging.WARNING, "%s: the channel behind the colours (alpha) is not used, here and elsewhere", 1, name
        )
    return upright(np.asarray(image.convert("RGB")), orientation_of(image))


def takes_nearest(mask_values: str) -> bool:
    """Whether masks are read by their nearest values (`config.data.mask_values`); UserError for another word."""
    check_known("config.data", MASK_VALUES, mask_values=mask_values)
    return mask_values == "nearest"


def takes_resized(mask_sizes: str) -> bool:
    """Whether masks are resized to their image (`config.data.mask_sizes`); UserError for another word."""
    check_known("config.data", MASK_SIZES, mask_sizes=mask_sizes)
    return mask_sizes == "resized"


def decode_mask(
    data: Path | bytes, name: str, colors: Sequence[tuple[int, int, int]] = (), *, nearest: bool = False
) -> Integer[np.ndarray, "h w"]:
    """Decode a mask to raw ids, upright: gray of 1, 2, 4, 8 or 16 bits, palette (its indices), or by `colors`.

    A NumPy file holds raw ids as they are.
    `colors[raw]` is the colour of a raw id.  Where they are given every mask is a picture, gray and palette masks too.
    Alpha is dropped.  With `nearest` any format will do, and a colour counts as the nearest one of `colors`.  Raises
    UserError naming `name` for a damaged file, a format that does not keep values, an RGB mask without `colors` and a
    colour that is not among them.
    """

    if arrays.is_npy(data):
        if colors:
            raise UserError(f"{name}: a NumPy file holds raw ids, not colours: leave config.data.colors out")
        return arrays.load_mask(data)

    def read(image: Image.Image) -> np.ndarray:
        if is_lossy(image) and not nearest:
            raise UserError(
                f"{name}: {image.format} changes the values of a mask: save it as PNG from where it was made, since "
                "what is in this file is no longer sure, or take the nearest of the values that are meant: "
                "--config.data.mask_values=nearest"
            )
        if is_cut(image) or (colors and image.mode.startswith(("I", "F"))):
            raise UserError(f"{name}: colour masks of more than 8 bits a channel are not read; use 8 bits")
        if colors and image.mode != "CMYK":
            return ids_of_colours(np.asarray(image.convert("RGB")), name, colors, nearest)
        if image.mode in ("RGB", "RGBA"):
            raise UserError(
                f"{name}: the mask is an RGB picture; give the colour of every raw id in config.data.colors"
            )
        if image.mode in ("LA", "PA"):
            return np.asarray(image)[..., 0]
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode == "L":
            # Before the pixels are decoded: Pillow then forgets how the file stores them.
            factor = gray_factor(image)
            return np.asarray(image) // factor
        if image.mode == "P" or image.mode.startswith("I"):
            return np.asarray(image)
        raise UserError(f"{name}: a mask of Pillow mode {image.mode} is not read; save it as gray or palette PNG")

    return opened(data, name, lambda image: upright(read(image), orientation_of(image)), verified=True)


def decode_masks(
    masks: Sequence[Path], name: str, colors: Sequence[tuple[int, int, int]] = (), *, nearest: bool = False
) -> Integer[np.ndarray, "h w"]:
    """The only one of several masks as `decode_mask` gives it; of one mask an object, 1 where any of them is not 0.

    Raises UserError as `decode_mask`, and for masks of different sizes.
    """
    if len(masks) == 1:
        return decode_mask(masks[0], name, colors, nearest=nearest)
    first, *others = (decode_mask(mask, str(mask), colors, nearest=nearest) > 0 for mask in masks)
    for mask, other in zip(masks[1:], others):
        if other.shape != first.shape:
            raise UserError(
                f"{mask}: the mask is {other.shape[1]}x{other.shape[0]} pixels, another one of its image "
                f"{first.shape[1]}x{first.shape[0]}; all must have one size"
            )
    return np.any([first, *others], axis=0).astype(np.uint8)


def _stored(image: Image.Image) -> str:
    """How the file stores its pixels, in Pillow's words; "" where Pillow does not say, or there is no file."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    stored = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return stored if isinstance(stored, str) else ""


def is_cut(image: Image.Image) -> bool:
    """Whether Pillow drops the low bytes of 16-bit channels, which it does where there are several."""
    return ";16" in _stored(image) and not image.mode.startswith("I")


def gray_factor(image: Image.Image) -> int:
    """The factor by which Pillow stretches gray values of 2 or 4 bits to 0..255 when it decodes them."""
    return {"L;2": 85, "L;4": 17}.get(_stored(image), 1)


def is_lossy(image: Image.Image) -> bool:
    """Whether the file is of a kind that does not keep values."""
    return image.format in _LOSSY or image.info.get("compression") == "jpeg"


def decode_pair(
    image: Path | bytes | Callable[[], np.ndarray],
    mask: Path | bytes | Sequence[Path] | Callable[[], np.ndarray],
    image_name: str,
    mask_name: str,
    table: UInt8[np.ndarray, "65536"],
    colors: Sequence[tuple[int, int, int]],
    *,
    nearest: bool = False,
    resized: bool = False,
) -> tuple[Shaped[np.ndarray, "h w c"], UInt8[np.ndarray, "h w *k"]]:
    """Decode an image and its mask, or call what gives its pixels and its raw ids, to (image, train ids).

    With `resized` a mask of another size takes that of the image, where one is the other enlarged.

    Raises UserError naming the file that is at fault.
    """
    pixels = image() if callable(image) else decode_image(image, image_name)
    if callable(mask):
        raw = mask()
    else:
        read = decode_mask if isinstance(mask, Path | bytes) else decode_masks
        raw = read(mask, mask_name, colors, nearest=nearest)
    if resized and _is_scaled(raw.shape[:2], pixels.shape[:2]):
        raw = _resized(raw, pixels.shape[:2])
    if pixels.shape[:2] != raw.shape[:2]:
        orientation = 1 if callable(image) else opened(image, image_name, orientation_of)
        turned = f" when it is upright, as its EXIF orientation {orientation} asks" if orientation > 1 else ""
        raise sizes_differ(pixels, raw, image_name, mask_name, turned)
    return pixels, to_train_ids(raw, table, mask_name)


def _is_scaled(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether both (h, w) have one shape, up to a pixel, so that neither is cut or turned.

    >>> _is_scaled((32, 48), (64, 97)), _is_scaled((48, 32), (64, 96))
    (True, False)
    """
    (h, w), (y, x) = size, other
    return abs(h * x - w * y) < max(min(h, w), min(y, x))


def _resized(mask: Integer[np.ndarray, "y x *k"], size: tuple[int, int]) -> Integer[np.ndarray, "h w *k"]:
    """The value of the nearest pixel of a mask at each one of a grid of `size`."""
    rows, columns = ((np.arange(n) + 0.5) * m // n for n, m in zip(size, mask.shape))
    return mask[np.ix_(rows.astype(int), columns.astype(int))]


def sizes_differ(image: Any, mask: Any, image_name: str, mask_name: str, turned: str = "") -> UserError:
    """The error of a mask [h, w] of another size than its image [h, w, c]."""
    return UserError(
        f"{mask_name}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, its image {image_name} is "
        f"{image.shape[1]}x{image.shape[0]}{turned}; both must have one size"
    )
