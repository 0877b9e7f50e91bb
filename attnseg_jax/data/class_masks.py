"""Labels of classes that may overlap: their masks, and which classes a label shows where.

Such a label is [h, w, k]: of each class 1 where it is there, 0 where it is not, 255 where that is not known. A label of
classes that exclude one another is [h, w]. The functions below take either.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Integer, Shaped, UInt8

from attnseg_jax.data import arrays, bands, decode
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL

MISSING = {"error": None, "absent": 0, "ignored": IGNORE_LABEL}
"""What a class is that has no file for an image (`config.data.missing`)."""


def pixels_of_classes(label: Integer[np.ndarray, "h w *k"], num_classes: int) -> Int[np.ndarray, "k"]:
    """The number of pixels where each class is there.

    >>> pixels_of_classes(np.array([[0, 2, 255]]), 3).tolist()
    [1, 0, 1]
    >>> pixels_of_classes(np.array([[[0, 1, 1]], [[1, 1, 255]]]), 3).tolist()
    [1, 2, 1]
    """
    if label.ndim == 3:
        return (label == 1).sum((0, 1))
    return np.bincount(label.ravel(), minlength=IGNORE_LABEL + 1)[:num_classes]


def labelled_pixels(label: Integer[np.ndarray, "h w *k"]) -> Int[np.ndarray, "#k"]:
    """The number of pixels where it is known of each class whether it is there; one number where that is the same."""
    known = label != IGNORE_LABEL
    return known.sum((0, 1)) if label.ndim == 3 else known.sum(keepdims=True).reshape(1)


def where(label: Integer[np.ndarray, "h w *k"], classes: Sequence[int]) -> Bool[np.ndarray, "h w"]:
    """Where any of some classes is there.

    >>> where(np.array([[0, 2, 255]]), [1, 2]).tolist(), where(np.array([[[0, 1, 1], [1, 0, 255]]]), [1, 2]).tolist()
    ([[False, True, False]], [[True, False]])
    """
    return (label[..., [*classes]] == 1).any(-1) if label.ndim == 3 else np.isin(label, classes)


def topmost(label: Integer[np.ndarray, "h w k"]) -> UInt8[np.ndarray, "h w"]:
    """One class for each pixel, the last of those that are there; k where none is, 255 where nothing is known.

    >>> topmost(np.array([[[0, 1, 1], [0, 0, 255], [255, 255, 255]]])).tolist()
    [[2, 3, 255]]
    """
    found = np.where((label == IGNORE_LABEL).all(-1), IGNORE_LABEL, label.shape[-1])
    for k in range(label.shape[-1]):
        found = np.where(label[..., k] == 1, k, found)
    return found.astype(np.uint8)


def read_class_masks(
    files: Sequence[Path | None], num_classes: int, *, nearest: bool = False
) -> Integer[np.ndarray, "h w k"]:
    """The raw values of the masks of all classes.

    Args:
      files: one for each class, or one alone that holds a band for each. What stands for None is any other's.
      num_classes: how many there are.
      nearest: whether the values may be such as lossy formats leave.

    Raises:
      UserError: a file cannot be read, is of another size than the others, or has not so many bands.
    """
    if len(files) == 1:
        return _bands(files[0], num_classes, nearest)
    given = {i: decode.decode_mask(path, str(path), nearest=nearest) for i, path in enumerate(files) if path}
    first, shown = next(iter(given.values())), next(filter(None, files))
    for i, mask in given.items():
        if mask.shape != first.shape:
            raise UserError(
                f"{files[i]}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, that of another class of its image, "
                f"{shown.name}, {first.shape[1]}x{first.shape[0]}; all must have one size"
            )
    return np.stack([given.get(i, first) for i in range(len(files))], -1)


def _bands(path: Path, num_classes: int, nearest: bool) -> Integer[np.ndarray, "h w k"]:
    found = arrays.load_mask(path, bands=True) if arrays.is_npy(path) else _picture(path, nearest)
    if found.shape[-1] != num_classes:
        count = found.shape[-1]
        raise UserError(
            f"{path}: the mask has {count} band{'s' if count > 1 else ''}, and config.data.mode='multilabel' needs one "
            f"for each of the {num_classes} classes, or a file for each, as in config.data.masks='lab/"
            "{stem}_{class}.png'; masks with one class at a pixel are of config.data.mode='multiclass'"
        )
    return found


def _picture(path: Path, nearest: bool) -> Shaped[np.ndarray, "h w k"]:
    if path.suffix.lower() not in bands.TIFF:
        lossy, mode = decode.opened(path, str(path), lambda image: (decode.is_lossy(image), image.mode))
        if lossy and not nearest:
            raise UserError(f"{path}: this format changes the values of a mask: save it as PNG, TIFF or .npy")
        if mode in ("P", "PA"):
            raise UserError(
                f"{path}: a palette picture has one class at a pixel, and config.data.mode='multilabel' a mask for each"
            )
    found = bands.read_file(path)
    if found.dtype.kind == "f":
        raise UserError(f"{path}: a mask of {found.dtype} is not read: save whole numbers")
    return found


def filled(label: UInt8[np.ndarray, "h w k"], files: Sequence[Path | None], missing: str) -> UInt8[np.ndarray, "h w k"]:
    """A label with what `config.data.missing` says in the place of classes without a file."""
    lacking = [i for i, path in enumerate(files) if path is None]
    if lacking:
        label[..., lacking] = MISSING[missing]
    return label
