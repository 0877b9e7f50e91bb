"""Stacks: TIFF files whose pages are pictures, each with its mask in the same page of another file.

Volumes of microscopes lie so. The pages become files once, in a cache.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from attnseg_jax.data import bands, decode
from attnseg_jax.data.layouts.pairing import Pair, Pairing
from attnseg_jax.data.layouts.templates import Form
from attnseg_jax.data.layouts.unpack import cache_folder, write_once
from attnseg_jax.errors import UserError

BLOCK = r"^(.*)[0-9]$"
"""What the names of ten pages that follow each other share."""

# Kinds of pixels that PNG files keep; others become TIFFs.
_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def form_of(stacked: Form) -> Form:
    """How the pages of stacks are named, of which `stacked` is the form; stems end in the number of the page."""
    split = "{split}/" if stacked.has_splits else ""
    return Form(f"{split}images/**/{{stem}}.*", f"{split}masks/**/{{stem}}.*")


def is_stack(root: Path, pair: Pair) -> bool:
    """Whether the image and the mask of a pair are files of several pictures each.

    Pages of other sizes than the first, such as those for quick zooming, are none.
    """
    return len(pair.masks) == 1 and all(pages(root / path) > 1 for path in (pair.image, pair.mask))


def pages(path: Path) -> int:
    """How many pictures a TIFF file holds; 1 of other files, and of what cannot be read."""
    if path.suffix.lower() not in bands.TIFF:
        return 1
    try:
        with Image.open(path) as image:
            return decode.pages_of(image)
    except (*decode.DAMAGED, Image.DecompressionBombError):
        return 1


def read_page(path: Path, page: int, channels: int = 0) -> Shaped[np.ndarray, "h w c"]:
    """A page of a TIFF file, upright: 8-bit RGB, or as it is where `channels` says how many it has.

    Raises UserError for a damaged file or page, and for other channels.
    """

    def read(image: Image.Image) -> np.ndarray:
        image.seek(page)
        if not channels:
            return decode.rgb_pixels(image, name)
        pixels = bands.pixels_of(image, path)
        return bands.joined([path], [pixels.reshape(*pixels.shape[:2], -1)], channels)

    name = f"{path}, page {page}"
    return decode.opened(path, name, read)


def unpacked(root: Path, form: Form, pairings: Mapping[str, Pairing]) -> Path:
    """The folder with the pages of all pairs as files, named by `form_of`, which are written where they are not there.

    Args:
      root: the folder of the stacks.
      form: how they are named.
      pairings: the stacks of each split; "" for a set without.

    Raises:
      UserError: an image has another number of pages than its mask, one cannot be read, or nothing can be written.
    """
    pairs = {split: pairing.pairs for split, pairing in pairings.items()}
    files = [root / path for of in pairs.values() for pair in of for path in (pair.image, pair.mask)]
    folder = cache_folder("stacks", root, files, [form.images, form.masks])
    write_once(folder, f"{len(files)} files of pages of {root}", functools.partial(_unpack, root, pairs))
    return folder


def _unpack(root: Path, pairs: Mapping[str, Sequence[Pair]], folder: Path) -> None:
    for split, of_split in pairs.items():
        for pair in of_split:
            image, mask = (
                _write_pages(root / path, folder / split / part / pair.name, masks=part == "masks")
                for part, path in (("images", pair.image), ("masks", pair.mask))
            )
            if image != mask:
                raise UserError(
                    f"{root / pair.mask}: {mask} page(s), and its image {pair.image} has {image}: each page is the "
                    "mask of one picture; restore the two files, or take both out of the folder"
                )


def _write_pages(path: Path, stem: Path, *, masks: bool) -> int:
    """Writes the pages of a file as `stem` and their number; how many there are."""
    stem.parent.mkdir(parents=True, exist_ok=True)

    def write(image: Image.Image) -> int:
        for page in range(pages := decode.pages_of(image)):
            image.seek(page)
            # Before anything decodes the pixels: Pillow then forgets how the file stores them.
            factor = decode.gray_factor(image) if masks else 1
            if decode.is_cut(image):
                raise UserError(f"{path}: stacks of 16-bit colours are not read: save each page as a file of its own")
            if masks and decode.is_lossy(image):
                raise UserError(f"{path}: JPEG inside changes the values of masks: save them from where they were made")
            shown = Image.fromarray(np.asarray(image) // factor) if factor > 1 else image
            shown.save(stem.with_name(f"{stem.name}_{page:04d}{'.png' if shown.mode in _PNG else '.tif'}"))
        return pages

    return decode.opened(path, str(path), write)
