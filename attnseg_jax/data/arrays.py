"""NumPy files (.npy) as images and masks."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from attnseg_jax.errors import UserError

NPY = ".npy"


def is_npy(path: Any) -> bool:
    """Whether a file is named like one of NumPy."""
    return isinstance(path, Path) and path.suffix.lower() == NPY


def load(path: Path, **options: Any) -> np.ndarray:
    """The array of a file.  Raises UserError for one that cannot be read, or holds objects."""
    try:
        return np.load(path, allow_pickle=False, **options)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as a NumPy array ({error}): restore or remove it") from None


def load_mask(path: Path, *, bands: bool = False) -> Integer[np.ndarray, "h w *k"]:
    """The raw ids of a mask, or with `bands` what it holds for each class, [h, w, k].

    Raises:
      UserError: the array is none.
    """
    raw = load(path)
    if raw.dtype == bool:
        raw = raw.astype(np.uint8)
    if raw.dtype.kind not in "ui" or raw.ndim not in ((2, 3) if bands else (2,)) or not raw.size:
        form = "[h, w, k]" if bands else "[h, w]"
        hint = "; a band for each class is of config.data.mode='multilabel'" if raw.ndim == 3 and not bands else ""
        raise UserError(f"{path}: an array of {raw.dtype} {raw.shape} is no mask: whole numbers {form} are{hint}")
    return raw.reshape(*raw.shape[:2], -1) if bands else raw
