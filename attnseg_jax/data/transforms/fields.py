"""The fields of a sample, and the parts of them that a crop takes.

A sample is a dict: 'image' uint8 [h, w, 3], 'label' uint8 [h, w], 'id' str, and whatever else a source or a transform
adds; with `config.data.channels` the image has so many, and may be float32. A field that is an array and whose first
two axes are the image's is a *pixel field*: it is resized, cropped, mirrored and padded with the image. One whose name
begins with `image` is a picture: resized bilinearly and normalised. Before the first crop a pixel field may be a
`FileArray`, of which the crop's part is then read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image

from attnseg_jax.data.windows import FileArray, is_large
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL

Sample = dict[str, Any]

HOST_FIELDS = ("id", "offset", "others", "shortened")
"""Fields that do not go into a batch."""

INTERPOLATIONS = ("bilinear", "bicubic")
"""Of pictures that are resized to `config.shorter_side`."""

SIZES = "_sizes"
"""Field of evaluated batches whose labels have another size than their images: height and width of both."""

# Longest side of a picture, resized or not, where one of the two is resized to the other: places are whole numbers of
# 31 bits.
_LONGEST = (1 << 15) - 1

PADDING: dict[str, np.generic] = {"image": np.float32(0), "label": np.int32(IGNORE_LABEL), "regions": np.int32(-1)}
"""What pads a pixel field whose name begins so, in a batch; every other is padded with zeros of its own type."""


def is_picture(name: str) -> bool:
    """Whether the field of that name is a picture."""
    return name.startswith("image")


def fill_value(name: str, dtype: Any) -> np.generic:
    """What pads the pixel field of that name: a value of its type in a batch.

    >>> fill_value("label_of_parts", np.uint8), fill_value("depth", np.float16)
    (np.int32(255), np.float16(0.0))
    """
    return next((value for start, value in PADDING.items() if name.startswith(start)), np.dtype(dtype).type(0))


def pixel_fields(sample: Sample) -> dict[str, np.ndarray]:
    """The pixel fields of a sample."""
    size = sample["image"].shape[:2]
    return {name: x for name, x in sample.items() if isinstance(x, np.ndarray | FileArray) and x.shape[:2] == size}


def batch_fields(sample: Sample) -> Sample:
    """The fields of a sample that go into a batch."""
    return {name: x for name, x in sample.items() if name not in HOST_FIELDS}


def map_pixels(sample: Sample, change: Callable[[str, np.ndarray], np.ndarray]) -> Sample:
    """The sample with `change(name, array)` in the place of each pixel field."""
    return {**sample, **{name: change(name, x) for name, x in pixel_fields(sample).items()}}


@dataclass(frozen=True)
class Window:
    """A part of a scaled image, and the place it takes in a crop; all of them (h, w) or (y, x).

    Attributes:
      scaled: size of the whole image after scaling.
      start: first pixel of the part in it.
      size: size of the part.
      offset: where it goes into a padded crop.
      interpolation: of pictures, 'bilinear' or 'bicubic'; both as wide as a scaled pixel where it is larger.
    """

    scaled: tuple[int, int]
    start: tuple[int, int]
    size: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    interpolation: str = "bilinear"

    def cut(self, array: np.ndarray | FileArray, resampling: Image.Resampling = Image.Resampling.NEAREST) -> np.ndarray:
        """The part of an unscaled array of a type that Pillow knows.

        As resizing the whole array and cutting the part out, but only the part is resized.
        """
        part, box = self._touched(array)
        return part if box is None else _resized(part, self.size, resampling, box)

    def cut_field(self, name: str, array: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "H W *c"]:
        """The part of an unscaled pixel field: interpolated for a picture, nearest for any other, of whatever type."""
        part, box = self._touched(array)
        if box is None:
            return part
        resampling = Image.Resampling[self.interpolation.upper()] if is_picture(name) else Image.Resampling.NEAREST
        if part.dtype == np.uint8 and part.shape[2:] in ((), (3,)):
            return _resized(part, self.size, resampling, box)
        if is_picture(name):
            return np.stack([_resized(channel, self.size, resampling, box) for channel in np.moveaxis(part, -1, 0)], -1)
        h, w = part.shape[:2]
        pixels = np.arange(h * w, dtype=np.int32).reshape(h, w)
        return part.reshape(h * w, *part.shape[2:])[_resized(pixels, self.size, resampling, box)]

    def _touched(self, array: np.ndarray | FileArray) -> tuple[np.ndarray, tuple[float, ...] | None]:
        """What the part is resized from, and the box (left, top, right, bottom) in it; None of an unscaled part.

        Of a very large array that is all that the part depends on, read from a file or not; Pillow, which has single
        precision here, would otherwise round the box by where it is.
        """
        (h, w), (y, x), (rows, columns) = array.shape[:2], self.start, self.size
        if self.scaled == (h, w):
            return array[y : y + rows, x : x + columns], None
        box = (x * w / self.scaled[1], y * h / self.scaled[0])
        box += ((x + columns) * w / self.scaled[1], (y + rows) * h / self.scaled[0])
        if not is_large(array):
            return array, box
        # As far as the filter reaches, and a pixel more.
        wide = 2 if self.interpolation == "bicubic" else 1
        reach = [math.ceil(wide * max(1, n / m)) + 1 for n, m in zip((w, h), (self.scaled[1], self.scaled[0]))]
        left, top = (max(0, math.floor(edge) - more) for edge, more in zip(box[:2], reach))
        right, bottom = (min(n, math.ceil(edge) + more) for edge, more, n in zip(box[2:], reach, (w, h)))
        return array[top:bottom, left:right], (box[0] - left, box[1] - top, box[2] - left, box[3] - top)


def _resized(
    array: np.ndarray, size: tuple[int, int], resampling: Image.Resampling, box: tuple[float, ...]
) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize(size[::-1], resampling, box=box))


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """(h, w) times `factor`, rounded, at least 1.

    >>> scaled_size((361, 3), 0.5)
    (180, 2)
    """
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def padded_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(h, w), each up to the next multiple.

    >>> padded_size((360, 480), 16), padded_size((360, 480), 1)
    ((368, 480), (360, 480))
    """
    h, w = (-(-n // multiple) * multiple for n in size)
    return h, w


def whole(size: tuple[int, int], factor: float) -> Window:
    """The window that shows all of an image of `size` (h, w) scaled by `factor`."""
    scaled = scaled_size(size, factor)
    return Window(scaled, (0, 0), scaled)


def shortened(size: tuple[int, int], config: Any, name: str) -> Window:
    """The window that shows all of an image of `size` (h, w) with a shorter side of `config.shorter_side`; 0: as it is.

    Raises:
      UserError: the image, of that name, would be too long.

    >>> from types import SimpleNamespace
    >>> shortened((300, 401), SimpleNamespace(shorter_side=150, interpolation="bicubic"), "").scaled
    (150, 200)
    """
    if not (side := config.shorter_side):
        return whole(size, 1)
    window = replace(whole(size, side / min(size)), interpolation=config.interpolation)
    if max(*size, *window.scaled) > _LONGEST:
        raise UserError(
            f"{name}: {size[0]} x {size[1]} pixels would be resized to {window.scaled[0]} x {window.scaled[1]} by "
            f"config.data.shorter_side={side}, where {_LONGEST} are the most: cut it, leave it out, or set that to 0"
        )
    return window


def canvas(size: tuple[int, int]) -> tuple[int, int]:
    """What masks of a size of their own are padded to, each side to one of few lengths, so that programs are few.

    >>> canvas((19, 256)), canvas((300, 1025)), canvas((3000, 4000))
    ((256, 256), (512, 1536), (3072, 4096))
    """
    h, w = (-(-n // (step := max(256, 1 << (n - 1).bit_length() - 2))) * step for n in size)
    return h, w


def normalise(image: np.ndarray, mean: Any, std: Any, channel_order: str = "rgb") -> Float32[np.ndarray, "h w c"]:
    """(image - mean) / std per channel, in float32; all three on the scale of the image's values.

    Mean and deviation are of red, green and blue. The channels of the result are in `channel_order`, 'rgb' or 'bgr'.
    """
    h, w, c = image.shape
    # As rows of w c numbers, over which NumPy is ten times as fast as over pixels of c.
    mean, std = (np.tile(np.broadcast_to(np.asarray(of, np.float32), c), w) for of in (mean, std))
    pixels = image.reshape(h, w * c) - mean
    pixels /= std
    image = pixels.reshape(h, w, c)
    return image[..., ::-1] if channel_order == "bgr" else image


def padded(sample: Sample, multiple: int) -> Sample:
    """The pixel fields of a batch's row, padded at the bottom and right to the next multiple of height and width."""
    size = sample["image"].shape[:2]
    larger = padded_size(size, multiple)
    if larger == size:
        return sample
    return map_pixels(sample, lambda name, x: pad(x, larger, (0, 0), fill_value(name, x.dtype)))


def pad(
    array: Shaped[np.ndarray, "h w *c"], size: tuple[int, int], offset: tuple[int, int], value: np.generic
) -> Shaped[np.ndarray, "H W *c"]:
    """An array put into one of `size` (h, w) at `offset` (y, x), with `value`, and of its type, around it."""
    h, w = array.shape[:2]
    canvas = np.full((*size, *array.shape[2:]), value)
    canvas[offset[0] : offset[0] + h, offset[1] : offset[1] + w] = array
    return canvas
