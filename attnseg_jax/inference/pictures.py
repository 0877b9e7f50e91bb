"""The pictures that a prediction is asked for: files, folders, patterns, arrays."""

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from attnseg_jax.data.bands import decode_bands
from attnseg_jax.data.decode import decode_image, rgb_pixels
from attnseg_jax.data.layouts import SUFFIXES, stacks
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded

_THREADS, _AHEAD = 4, 8


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture.

    Attributes:
      name: for messages.
      path: of its file; None for one that is given as an array.
      target: where its outputs go below a folder, without an ending.
      pixels: as the model's data have them, uint8 `[h, w, 3]` for most, where they are known already.
      page: of a file of several pictures; None for the only one.
    """

    name: str
    path: Path | None = None
    target: Path = Path("picture")
    pixels: Shaped[np.ndarray, "h w c"] | None = None
    page: int | None = None


def is_single(images: Any) -> bool:
    """Whether one picture is asked for, not several."""
    if isinstance(images, str | Path):
        return expanded(images).is_file()
    return isinstance(images, np.ndarray | Image.Image)


def find(images: Any, channels: int = 0) -> list[Picture]:
    """The pictures that `images` names, see `Predictor.__call__`; files of a folder or pattern in the order of names.

    Arrays have the `channels` of `config.data.channels`, 0 for 8-bit RGB.

    Raises:
      UserError: there are none, or something is no picture.
    """
    if isinstance(images, str | Path):
        return _files(images)
    if isinstance(images, np.ndarray | Image.Image):
        return [_given(images, "the picture", Path("picture"), channels)]
    if not isinstance(images, Sequence):
        raise UserError(
            f"{type(images).__name__} is no picture: give a file, an array, a PIL picture or a list of them"
        )
    found = []
    for number, one in enumerate(images):
        if isinstance(one, str | Path):
            found += _files(one)
        else:
            found.append(_given(one, f"picture {number}", Path(f"picture_{number}"), channels))
    return _distinct(found)


def by_page(pictures: Iterable[Picture]) -> list[Picture]:
    """With the pages of TIFF files as pictures; their outputs go to a folder of the file's name, by numbers from 0."""
    found = []
    for picture in pictures:
        count = stacks.pages(picture.path) if picture.path else 1
        found += [picture] if count == 1 else [
            replace(picture, name=f"{picture.name}, page {page}", target=picture.target / f"{page:04d}", page=page)
            for page in range(count)
        ]  # fmt: skip
    return found


def decoded(
    pictures: Iterable[Picture], channels: int = 0
) -> Iterator[tuple[Picture, Shaped[np.ndarray, "h w c"] | UserError]]:
    """Every picture with its pixels, or with why it cannot be read; a few are decoded ahead by threads.

    `channels` is that of `config.data`, 0 for 8-bit RGB.
    """
    waiting: deque[tuple[Picture, Future]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for picture in pictures:
            waiting.append((picture, pool.submit(_pixels, picture, channels)))
            if len(waiting) > _AHEAD:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _pixels(picture: Picture, channels: int) -> Shaped[np.ndarray, "h w c"] | UserError:
    if picture.pixels is not None:
        return picture.pixels
    try:
        if picture.page is not None:
            return stacks.read_page(picture.path, picture.page, channels)
        return decode_bands([picture.path], channels) if channels else decode_image(picture.path, picture.name)
    except UserError as error:
        return error


def _files(given: str | Path) -> list[Picture]:
    path = expanded(given)
    if path.is_file():
        return [Picture(str(given), path, Path(path.stem))]
    if path.is_dir():
        base, paths = path, with_pictures(path)
        what = f"holds no pictures ({', '.join(suffix[1:] for suffix in SUFFIXES)})"
    elif glob.has_magic(str(path)):
        # What precedes the first part with a wildcard.
        base = Path(os.path.join(*_plain(path.parts))) if _plain(path.parts) else Path()
        paths, what = map(Path, glob.iglob(str(path), recursive=True)), "matches no file"
    else:
        raise UserError(f"{given}: there is no such file or folder")
    found = visible(base, paths)
    if not found:
        raise UserError(f"{given} {what}")
    return _distinct([Picture(str(p), p, p.relative_to(base).with_suffix("")) for p in found])


def with_pictures(folder: Path) -> Iterator[Path]:
    """What is below a folder and named like a picture."""
    return (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def visible(base: Path, paths: Iterable[Path]) -> list[Path]:
    """The files among paths below `base`, sorted, without hidden ones, such as macOS writes beside each."""
    return sorted({p for p in paths if p.is_file() and not any(q.startswith(".") for q in p.relative_to(base).parts)})


def _plain(parts: Sequence[str]) -> list[str]:
    """The leading parts of a path without a wildcard.

    >>> _plain(("photos", "2*", "a.jpg"))
    ['photos']
    """
    count = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return list(parts[:count])


def _distinct(pictures: list[Picture]) -> list[Picture]:
    """Pictures whose outputs do not meet: those of one name keep the ending of their file in it.

    Raises:
      UserError: two have the same name, ending included.
    """
    # Several inputs may name one file.
    files = {picture.path.resolve(): picture for picture in reversed(pictures) if picture.path is not None}
    pictures = [p for p in pictures if p.path is None or files[p.path.resolve()] is p]
    counts: dict[Path, int] = {}
    for picture in pictures:
        counts[picture.target] = counts.get(picture.target, 0) + 1
    found, seen = [], {}
    for picture in pictures:
        target = picture.target
        if counts[target] > 1 and picture.path is not None:
            target = target.with_name(picture.path.name)
        if target in seen:
            raise UserError(f"{seen[target]} and {picture.name} have one name: their outputs would meet, rename one")
        seen[target] = picture.name
        found.append(Picture(picture.name, picture.path, target, picture.pixels))
    return found


def _given(image: Any, name: str, target: Path, channels: int) -> Picture:
    if channels:
        return Picture(name, None, target, _with_channels(image, name, channels))
    if isinstance(image, Image.Image):
        return Picture(name, None, target, rgb_pixels(image, name))
    if not isinstance(image, np.ndarray):
        raise UserError(f"{name}: {type(image).__name__} is no picture: give a file, an array or a PIL picture")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or not image.size:
        raise UserError(
            f"{name}: an array of {image.dtype} {list(image.shape)} is no picture: give uint8 [h, w, 3] or [h, w], "
            "values 0 to 255"
        )
    return Picture(name, None, target, np.stack([image] * 3, -1) if image.ndim == 2 else image)


def _with_channels(image: Any, name: str, channels: int) -> Shaped[np.ndarray, "h w c"]:
    """An array of so many channels, as `decode_bands` gives those of files."""
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.dtype.kind not in "uif" or image.ndim != 3 or image.shape[2] != channels or not image.size:
        raise UserError(
            f"{name}: an array of {image.dtype} {list(image.shape)} is no picture for this model: give numbers "
            f"[h, w, {channels}], on the scale of its training"
        )
    return image if image.dtype == np.uint8 else image.astype(np.float32)
