"""Region maps kept on disk: one small compressed file per image, named after what it was computed from."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int32, UInt8

from attnseg_jax.data.regions import methods
from attnseg_jax.errors import UserError
from attnseg_jax.files import make_folder, user_cache, write_atomically


def folder(given: str) -> Path:
    """The folder that `config.data.regions.cache` means; '' is one in the user's cache (XDG base directories)."""
    if given:
        try:
            return Path(given).expanduser()
        except RuntimeError as error:
            raise UserError(f"config.data.regions.cache={given}: {str(error).rstrip('.')}") from error
    return user_cache() / "attnseg_jax" / "regions"


def check(given: str) -> None:
    """Make the folder that `config.data.regions.cache` means; raises UserError where no map can be kept there."""
    path = folder(given)
    try:
        make_folder(path)
    except OSError as error:
        raise UserError(_hint(path, error)) from error


def settle(config: Any) -> None:
    """Has a `config.data.regions` of elsewhere, whose folder cannot be made here, take the user's cache instead.

    Raises:
      UserError: no map can be kept there either.
    """
    if not methods.used(config):
        return
    try:
        check(config.cache)
    except UserError as error:
        if not config.cache:
            raise
        logging.warning("%s; the user's cache is taken instead", error)
        config.cache = ""
        check("")


def _hint(path: Path, error: OSError) -> str:
    return (
        f"{path}: region maps cannot be kept here ({error.strerror}); choose another folder with "
        "config.data.regions.cache, or another user's cache with XDG_CACHE_HOME"
    )


def file_name(image: UInt8[np.ndarray, "h w 3"], made_by: Mapping[str, Any]) -> str:
    """The file name for the map of `image`; it changes with every pixel and every value of `made_by`."""
    digest = hashlib.sha256(json.dumps([made_by, image.shape], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image))
    return f"{digest.hexdigest()}.regions"


def read(path: Path, shape: tuple[int, int, int]) -> Int32[np.ndarray, "h w l"] | None:
    """The map at `path`; None where there is none, or a damaged one."""
    try:
        data = path.read_bytes()
        # A flipped bit may pass the checksum of zlib, not this one.
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return np.frombuffer(zlib.decompress(data[32:]), "<i4").reshape(shape).astype(np.int32)
    except (OSError, ValueError, zlib.error):
        return None


def write(path: Path, regions: Int32[np.ndarray, "h w l"]) -> None:
    """Write a map to `path` atomically, also beside other processes; raises UserError where that is impossible."""
    data = zlib.compress(regions.astype("<i4").tobytes())
    try:
        write_atomically(path, hashlib.sha256(data).digest() + data)
    except OSError as error:
        raise UserError(_hint(path.parent, error)) from error


def cached(image: UInt8[np.ndarray, "h w 3"], config: Any) -> Int32[np.ndarray, "h w l"]:
    """As `methods.propose`, but read from the cache if it is there, and written to it if not.

    Raises:
      UserError: the cache cannot be written to.
    """
    made_by = {"method": config.method, "version": methods.version(), **config[config.method]}
    path = folder(config.cache) / file_name(image, made_by)
    regions = read(path, (*image.shape[:2], methods.levels(config)))
    if regions is None:
        regions = methods.propose(image, config)
        write(path, regions)
    return regions


def with_regions(sample: dict[str, Any], config: Any) -> dict[str, Any]:
    """A sample of a source with 'regions', its image's region map, where a `config.data.regions` has a method."""
    return {**sample, "regions": cached(sample["image"], config)} if methods.used(config) else sample
