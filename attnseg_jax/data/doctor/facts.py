"""What the files of one pair are: formats, sizes, and the values or colours of the mask. No judgement."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnseg_jax.data import arrays, bands, decode, limits, windows
from attnseg_jax.data.doctor.mask_facts import MaskFacts, array_format, is_beyond, read_drawn, read_mask, read_masks
from attnseg_jax.data.doctor.moments import Moments
from attnseg_jax.data.doctor.near import look_of
from attnseg_jax.data.layouts import Pair
from attnseg_jax.errors import UserError


@dataclass(frozen=True)
class ImageFacts:
    """An image file: format, mode and orientation as Pillow names them, bits of a channel, (h, w) upright and stored.

    `pages` is more than 1 for a TIFF or GIF of several; `digest` is that of the whole file; `channels` are those of
    `config.data.channels`, 0 for what is read as 8-bit RGB; `moments` is there with channels, and
    `look` (see `near.look_of`) where it was asked for.
    """

    format: str
    mode: str
    bits: int
    size: tuple[int, int]
    stored: tuple[int, int]
    orientation: int
    pages: int
    alpha: bool
    digest: bytes
    channels: int = 0
    moments: Moments | None = None
    look: int | None = None


@dataclass(frozen=True)
class PairFacts:
    """An image and its mask, each as its facts or as the error that reading it gave."""

    name: str
    split: str
    image_path: str
    mask_path: str
    image: ImageFacts | UserError
    mask: MaskFacts | UserError


def read_pair(
    root: Path,
    split: str,
    pair: Pair,
    labels: Sequence[str] = (),
    *,
    looks: bool = False,
    read: Callable[[], MaskFacts] | None = None,
) -> PairFacts:
    """The facts of a pair whose files are below `root`; `labels` are those of drawn masks.

    With `looks` images are decoded for their `near.look_of`. `read` gives the mask's facts where classes may overlap.
    """
    image = _or_error(partial(read_image, looks=looks), root / pair.image)
    if read:
        mask = _or_error(lambda path: read(), root / pair.mask)
    elif labels:
        mask = _or_error(read_drawn, root / pair.mask, root / pair.image, labels)
    elif pair.more:
        mask = _or_error(read_masks, [root / mask for mask in pair.masks])
    else:
        mask = _or_error(read_mask, root / pair.mask)
    return PairFacts(pair.name, split, pair.image, pair.mask, image, mask)


def _or_error(read: Callable[..., Any], *files: Any) -> Any:
    try:
        return read(*files)
    except UserError as error:
        return too_large(files[0]) or error


def too_large(file: Path | Sequence[Path]) -> UserError | None:
    """The error of a picture that Pillow refuses for its size, with the key that allows it."""
    try:
        for path in [file] if isinstance(file, Path) else file:
            limits.check_pixels(path, str(path), limits.MAX_PIXELS)
    except UserError as error:
        return error
    return None


def read_image(path: Path, *, looks: bool = False) -> ImageFacts:
    """The facts of an image file; its pixels are decoded where nothing less tells that they can be, or for its look.

    Raises:
      UserError: it is damaged.
    """
    if is_beyond(path):
        return _of_large(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): restore or remove it") from None
    suffix = path.suffix.lower()
    if arrays.is_npy(path):
        return _of_bands(path, data, "NumPy", 1)
    try:
        found = _of_picture(path, data, looks)
    except UserError:
        if suffix not in bands.TIFF:
            raise
        # A kind of TIFF that Pillow does not know.
        return _of_bands(path, data, "TIFF", 1)
    banded = found.bits > 8 or found.mode == "RGBX" or (found.format == "TIFF" and found.pages > 1)
    return _of_bands(path, data, found.format, found.pages) if banded else found


def _of_bands(path: Path, data: bytes, format: str, pages: int) -> ImageFacts:
    pixels = bands.decode_bands([path])
    kind = bands.read_file(path).dtype if pixels.dtype != np.uint8 else pixels.dtype
    h, w, channels = pixels.shape
    mode = f"{channels} x {kind}"
    digest = _digest(data)
    return ImageFacts(
        format, mode, 8 * kind.itemsize, (h, w), (h, w), 1, pages, False, digest, channels, Moments.of(pixels)
    )


def _of_large(path: Path) -> ImageFacts:
    """The facts of an image that is read by windows; UserError for another, which is too large to be decoded."""
    found, rgb = windows.channels_in(path), windows.channels_in(path, rgb=True)
    if found is None:
        limits.check_pixels(path, str(path), limits.MAX_PIXELS)
    h, w, channels = found.shape
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, _hash).digest()
    moments = Moments.of_all(found)
    mode, bits = f"{channels} x {found.dtype}", 8 * found.dtype.itemsize
    if rgb and rgb.shape == found.shape:
        mode, channels, moments = {1: "L", 3: "RGB", 4: "RGBA"}[channels], 0, None
    return ImageFacts(array_format(path), mode, bits, (h, w), (h, w), 1, 1, mode == "RGBA", digest, channels, moments)


_hash = partial(hashlib.blake2b, digest_size=16)


def _digest(data: bytes) -> bytes:
    return _hash(data).digest()


def _of_picture(path: Path, data: bytes, looks: bool) -> ImageFacts:

    def read(image: Image.Image) -> ImageFacts:
        png = image.format == "PNG"
        bits = data[24] if png else 16 if decode.is_cut(image) else _BITS.get(image.mode, 8)
        mode, (w, h) = image.mode, image.size
        # Pillow would decode a PNG for its EXIF data.
        orientation = 1 if png and b"eXIf" not in data and b"exif" not in data else decode.orientation_of(image)
        alpha = mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        pages = decode.pages_of(image)
        if looks or not png or b"IEND" not in data[-16:]:
            # A JPEG is decoded to an eighth of its size, which reads all of the file.
            image.draft("RGB", (max(1, w // 8), max(1, h // 8)))
            image.load()
        size = (w, h) if decode.UPRIGHT[orientation][0] else (h, w)
        found = ImageFacts(image.format, mode, bits, size, (h, w), orientation, pages, alpha, _digest(data))
        return replace(found, look=look_of(image)) if looks and bits <= 8 else found

    return decode.opened(data, str(path), read, verified=True)


_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
