"""Region proposals: partitions of an image, from fine to coarse, by scikit-image, which is imported only when used."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from attnseg_jax.data.regions.felzenszwalb import Felzenszwalb
from attnseg_jax.data.regions.slic import Slic
from attnseg_jax.errors import UserError, check_known, check_least


class Method(Protocol):
    """A way to divide an image; its options are the group of its name in `config.data.regions`."""

    level_option: str
    """The option that has one value for each level, from fine to coarse."""

    @staticmethod
    def divide(image: UInt8[np.ndarray, "h w 3"], value: Any, options: Mapping[str, Any]) -> Integer[np.ndarray, "h w"]:
        """The partition of one level, for which `level_option` has `value`."""
        ...

    @staticmethod
    def check(options: Mapping[str, Any], path: str) -> None:
        """Raises UserError for an option that cannot be; `path` is the config key of the options."""
        ...


METHODS: dict[str, type[Method]] = {"felzenszwalb": Felzenszwalb, "slic": Slic}
"""Methods by name (`config.data.regions.method`)."""


def used(config: Any) -> bool:
    """Whether a `config.data.regions` asks for regions at all."""
    return config.method != "none"


def levels(config: Any) -> int:
    """The number of partitions of each image that a `config.data.regions` asks for."""
    return len(config[config.method][METHODS[config.method].level_option])


def selected(config: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.data.regions` without the options that its method does not use.

    >>> selected({"method": "none", "count": 128, "sample": 0, "cache": "", "slic": {"segments": (96,)}})
    {'method': 'none'}
    """
    unused = [name for name in METHODS if name != config["method"]]
    unused += ["count", "sample", "cache"] if config["method"] == "none" else []
    return {key: value for key, value in config.items() if key not in unused}


def check(config: Any) -> None:
    """Raises UserError for a `config.data.regions` that cannot be, and where scikit-image is missing."""
    path = "config.data.regions"
    check_known(path, ("none", *METHODS), method=config.method)
    if not used(config):
        return
    version()
    check_least(path, 1, count=config.count)
    check_least(path, 0, sample=config.sample)
    if config.sample > config.count:
        raise UserError(f"{path}.sample={config.sample} must be at most {path}.count={config.count}; 0 takes all")
    METHODS[config.method].check(config[config.method], f"{path}.{config.method}")


def version() -> str:
    """The version of scikit-image; raises UserError where it is not installed."""
    try:
        import skimage
    except ImportError as error:
        raise UserError(
            "config.data.regions.method needs scikit-image, which is not installed: pip install scikit-image"
        ) from error
    return skimage.__version__


def propose(image: UInt8[np.ndarray, "h w 3"], config: Any) -> Int32[np.ndarray, "h w l"]:
    """The region map of an image, as a `config.data.regions` describes it.

    Level 0 is the finest.  Ids are unique over the levels and dense: 0 to n - 1 in level 0, from n in level 1.
    """
    method, options = METHODS[config.method], config[config.method]
    partitions, first = [], 0
    for value in options[method.level_option]:
        partition = method.divide(image, value, options)
        found, dense = np.unique(partition, return_inverse=True)
        partitions.append(dense.reshape(partition.shape) + first)
        first += len(found)
    return np.stack(partitions, -1).astype(np.int32)
