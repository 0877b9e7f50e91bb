"""What the files of one pair are: formats, sizes, and the values or colours of the mask. No judgement."""

import functools
import hashlib
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnseg_jax.data import annotations, arrays, bands, decode, limits, windows
from attnseg_jax.data.datasets import Colour
from attnseg_jax.data.doctor.moments import Moments
from attnseg_jax.data.doctor.near import look_of
from attnseg_jax.data.layouts import Pair
from attnseg_jax.errors import UserError

_MOST_COLOURS = 4096
# Of a mask with more colours than that: the most frequent ones are those that were meant.
_KEPT_COLOURS = 48


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
class MaskFacts:
    """A mask file.

    Attributes:
      format: as Pillow names it, as is `mode`.
      mode: of the pixels.
      size: (h, w) upright.
      lossy: whether the format changes values.
      values: pixels of every gray value or palette index; None for a colour picture.
      colours: pixels of every colour; None where the values have more than 8 bits.
      rest: pixels of colours beyond those.
      palette: colour of every index that is used, in a palette picture.
      pages: of a file of several pictures.
      there: pixels where each class is, of masks of classes that may overlap; () of others.
      overlap: pixels where any of them is, and where several are.
    """

    format: str
    mode: str
    size: tuple[int, int]
    lossy: bool
    values: Counter[int] | None
    colours: Counter[Colour] | None
    rest: int = 0
    palette: dict[int, Colour] = field(default_factory=dict)
    pages: int = 1
    there: tuple[int, ...] = ()
    overlap: tuple[int, int] = (0, 0)


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
    if _is_beyond(path):
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


def _is_beyond(path: Path) -> bool:
    """Whether a file of a kind that is read by windows is too large to be decoded."""
    kinds = (*bands.TIFF, arrays.NPY)
    return path.suffix.lower() in kinds and limits.is_beyond(path, limits.MAX_PIXELS)


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
    kind = "NumPy" if arrays.is_npy(path) else "TIFF"
    if rgb and rgb.shape == found.shape:
        mode, channels, moments = {1: "L", 3: "RGB", 4: "RGBA"}[channels], 0, None
    return ImageFacts(kind, mode, bits, (h, w), (h, w), 1, 1, mode == "RGBA", digest, channels, moments)


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
        pages = getattr(image, "n_frames", 1)
        if looks or not png or b"IEND" not in data[-16:]:
            # A JPEG is decoded to an eighth of its size, which reads all of the file.
            image.draft("RGB", (max(1, w // 8), max(1, h // 8)))
            image.load()
        size = (w, h) if decode.UPRIGHT[orientation][0] else (h, w)
        found = ImageFacts(image.format, mode, bits, size, (h, w), orientation, pages, alpha, _digest(data))
        return replace(found, look=look_of(image)) if looks and bits <= 8 else found

    return decode.opened(data, str(path), read, verified=True)


_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}


def read_mask(path: Path) -> MaskFacts:
    """The facts of a mask file.

    Raises:
      UserError: it is damaged, or no mask can be read from pixels of its kind.
    """

    if _is_beyond(path):
        return _of_large_mask(path)

    def read(image: Image.Image) -> MaskFacts:
        mode, format, lossy = image.mode, image.format, decode.is_lossy(image)
        # Before the orientation, for which Pillow decodes PNGs: it then forgets how they are stored.
        factor, cut = decode.gray_factor(image), decode.is_cut(image)
        orientation = decode.orientation_of(image)
        (w, h), pages = image.size, getattr(image, "n_frames", 1)
        size = (w, h) if decode.UPRIGHT[orientation][0] else (h, w)
        if cut or mode in ("F", "CMYK"):
            raise UserError(
                f"{path}: a mask of mode {mode} with more than 8 bits a channel is not read: save it as PNG"
            )
        return MaskFacts(format, mode, size, lossy, *_count(image, factor), pages=pages)

    if arrays.is_npy(path):
        pixels = arrays.load_mask(path)
        return MaskFacts("NumPy", str(pixels.dtype), pixels.shape, False, counted(pixels), None)
    return decode.opened(path, str(path), read, verified=True)


def _of_large_mask(path: Path) -> MaskFacts:
    """As `_of_large`."""
    found = windows.mask_in(path, (), nearest=False)
    if found is None:
        limits.check_pixels(path, str(path), limits.MAX_PIXELS)
    values = functools.reduce(operator.add, map(counted, windows.in_bands(found)))
    kind, mode = ("NumPy", str(found.dtype)) if arrays.is_npy(path) else ("TIFF", _MODES[found.dtype.itemsize])
    colours = None if mode != "L" else Counter({(value,) * 3: count for value, count in values.items()})
    return MaskFacts(kind, mode, found.shape, False, values, colours)


_MODES = {1: "L", 2: "I;16"}


def counted(pixels: np.ndarray) -> Counter[int]:
    """The pixels of every value."""
    found, counts = np.unique(pixels, return_counts=True)
    return Counter(dict(zip(found.tolist(), counts.tolist())))


def read_masks(paths: Sequence[Path]) -> MaskFacts:
    """The facts of the masks of an image's objects, as the one that training makes of them."""
    first = read_mask(paths[0])
    pixels = decode.decode_masks(paths, str(paths[0]))
    ones = int(pixels.sum())
    values = +Counter({0: pixels.size - ones, 1: ones})
    colours = Counter({(value,) * 3: count for value, count in values.items()})
    return MaskFacts(first.format, first.mode, pixels.shape, first.lossy, values, colours)


def read_drawn(path: Path, image: Path, labels: Sequence[str]) -> MaskFacts:
    """The facts of a mask that an annotation file describes."""
    pixels = annotations.draw(path, image, labels)
    return MaskFacts("JSON", "shapes", pixels.shape, False, counted(pixels), None)


def _count(image: Image.Image, factor: int) -> tuple[Counter | None, Counter | None, int, dict[int, Colour]]:
    """Values, colours, pixels of further colours, palette."""
    if image.mode in ("LA", "PA"):
        image = image.getchannel(0) if image.mode == "LA" else image.convert("P")
    if image.mode in ("L", "1", "P"):
        pixels = {value: count for value, count in enumerate(image.histogram()) if count}
        if image.mode == "P":
            palette = image.getpalette("RGB") or []
            palette += [0] * (768 - len(palette))
            used = {index: tuple(palette[3 * index : 3 * index + 3]) for index in pixels}
            colours: Counter[Colour] = Counter()
            for index, count in pixels.items():
                colours[used[index]] += count
            return Counter(pixels), colours, 0, used
        divisor = 255 if image.mode == "1" else factor
        values = Counter({value // divisor: count for value, count in pixels.items()})
        return values, Counter({(value,) * 3: count for value, count in pixels.items()}), 0, {}
    if image.mode.startswith("I"):
        return counted(np.asarray(image)), None, 0, {}
    rgb = image.convert("RGB")
    found = rgb.getcolors(_MOST_COLOURS)
    if found is not None:
        return None, Counter({colour: count for count, colour in found}), 0, {}
    codes = np.asarray(rgb).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    found, counts = np.unique(codes, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:_KEPT_COLOURS]
    kept = {(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255): int(n) for c, n in zip(found[most], counts[most])}
    return None, Counter(kept), int(counts.sum() - counts[most].sum()), {}
