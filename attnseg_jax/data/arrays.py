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


def load_mask(path: Path) -> Integer[np.ndarray, "h w"]:
    """The raw ids of a mask.  Raises UserError for an array that is none."""
    raw = load(path)
    if raw.dtype == bool:
        raw = raw.astype(np.uint8)
    if raw.dtype.kind not in "ui" or raw.ndim != 2 or not raw.size:
        hint = "; a band for each class is of config.data.mode='multilabel'" if raw.ndim == 3 else ""
        raise UserError(f"{path}: an array of {raw.dtype} {raw.shape} is no mask: whole numbers [h, w] are{hint}")
    return raw
