"""Region maps kept on disk, one small compressed file an image, named by what they were computed from."""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from attnseg_jax.errors import UserError
from attnseg_jax.files import make_folder, write_atomically


def folder(given: str) -> Path:
    """The folder that `config.data.regions.cache` means; '' is one in the user's cache (XDG base directories)."""
    if given:
        try:
            return Path(given).expanduser()
        except RuntimeError as error:
            raise UserError(f"config.data.regions.cache={given}: {str(error).rstrip('.')}") from error
    home = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, says the standard.
    base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    return base / "attnseg_jax" / "regions"


def check(given: str) -> None:
    """Makes the folder that `config.data.regions.cache` means; raises UserError where no map can be kept there."""
    path = folder(given)
    try:
        make_folder(path)
    except OSError as error:
        raise UserError(_hint(path, error)) from error


def _hint(path: Path, error: OSError) -> str:
    return (
        f"{path}: region maps cannot be kept here ({error.strerror}); choose another folder with "
        "config.data.regions.cache, or another user's cache with XDG_CACHE_HOME"
    )


def file_name(image: UInt8[np.ndarray, "h w 3"], made_by: Mapping[str, Any]) -> str:
    """The name that a map of `image` has, which changes with every pixel and every value of `made_by`."""
    digest = hashlib.sha256(json.dumps([made_by, image.shape], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image))
    return f"{digest.hexdigest()}.regions"


def read(path: Path, shape: tuple[int, int, int]) -> Int32[np.ndarray, "h w l"] | None:
    """The map at `path`; None where there is none, or it is damaged."""
    try:
        data = path.read_bytes()
        # A flipped bit may pass the checksum of zlib, not this one.
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return np.frombuffer(zlib.decompress(data[32:]), "<i4").reshape(shape).astype(np.int32)
    except (OSError, ValueError, zlib.error):
        return None


def write(path: Path, regions: Int32[np.ndarray, "h w l"]) -> None:
    """Puts a map at `path`, whole or not at all, whoever else does so; raises UserError where that cannot be."""
    data = zlib.compress(regions.astype("<i4").tobytes())
    try:
        write_atomically(path, hashlib.sha256(data).digest() + data)
    except OSError as error:
        raise UserError(_hint(path.parent, error)) from error
