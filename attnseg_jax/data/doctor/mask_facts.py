"""What a mask file is: format, size, and its values or colours. No judgement."""

import functools
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from attnseg_jax.data import annotations, arrays, bands, decode, limits, windows
from attnseg_jax.data.datasets import Colour
from attnseg_jax.errors import UserError

_MOST_COLOURS = 4096
# Of a mask with more colours than that: the most frequent ones are those that were meant.
_KEPT_COLOURS = 48


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


def is_beyond(path: Path) -> bool:
    """Whether a file of a kind that is read by windows is too large to be decoded."""
    kinds = (*bands.TIFF, arrays.NPY)
    return path.suffix.lower() in kinds and limits.is_beyond(path, limits.MAX_PIXELS)


def read_mask(path: Path) -> MaskFacts:
    """The facts of a mask file.

    Raises:
      UserError: it is damaged, or no mask can be read from pixels of its kind.
    """

    if is_beyond(path):
        return _of_large_mask(path)

    def read(image: Image.Image) -> MaskFacts:
        mode, format, lossy = image.mode, image.format, decode.is_lossy(image)
        # Before the orientation, for which Pillow decodes PNGs: it then forgets how they are stored.
        factor, cut = decode.gray_factor(image), decode.is_cut(image)
        orientation = decode.orientation_of(image)
        (w, h), pages = image.size, decode.pages_of(image)
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
    """The facts of a mask that is read by windows; UserError for another, which is too large to be decoded."""
    found = windows.mask_in(path, (), nearest=False)
    if found is None:
        limits.check_pixels(path, str(path), limits.MAX_PIXELS)
    values = functools.reduce(operator.add, map(counted, windows.in_bands(found)))
    mode = str(found.dtype) if arrays.is_npy(path) else _MODES[found.dtype.itemsize]
    colours = None if mode != "L" else Counter({(value,) * 3: count for value, count in values.items()})
    return MaskFacts(array_format(path), mode, found.shape, False, values, colours)


_MODES = {1: "L", 2: "I;16"}


def array_format(path: Path) -> str:
    """The format of a file whose bands or windows are read, which Pillow need not know."""
    return "NumPy" if arrays.is_npy(path) else "TIFF"


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
