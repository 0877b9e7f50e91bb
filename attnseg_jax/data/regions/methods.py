"""Region proposals: partitions of an image, from fine to coarse, by scikit-image, which is imported only when used."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from attnseg_jax.errors import UserError, check_known


@dataclass(frozen=True)
class Method:
    """A way to divide an image; its options are the group of its name in `config.data.regions`.

    Attributes:
      divide: (image, value, options) -> integers [h, w], the partition of one level.
      level_option: the option that has a value for each level, which `divide` gets one by one.
      kind: type of these values, which are above 0.
      rising: whether they rise strictly from fine to coarse; otherwise they fall.
      wanted: what these values must be, for a message.
    """

    divide: Callable[[np.ndarray, Any, Mapping[str, Any]], np.ndarray]
    level_option: str
    kind: Any
    rising: bool
    wanted: str


def _felzenszwalb(image: np.ndarray, scale: float, options: Mapping[str, Any]) -> np.ndarray:
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(image, scale=scale, sigma=options["sigma"], min_size=options["min_size"])


def _slic(image: np.ndarray, segments: int, options: Mapping[str, Any]) -> np.ndarray:
    from skimage.segmentation import slic

    return slic(image, n_segments=segments, compactness=options["compactness"], start_label=0)


METHODS = {
    # Merging neighbours, Felzenszwalb and Huttenlocher 2004.
    "felzenszwalb": Method(
        _felzenszwalb,
        level_option="scales",
        kind=int | float,
        rising=True,
        wanted="numbers above 0 from small to large, one for each level: the larger, the more is merged",
    ),
    # k-means on colour and position, Achanta et al. 2012.
    "slic": Method(
        _slic,
        level_option="segments",
        kind=int,
        rising=False,
        wanted="integers above 0 from large to small, one for each level: how many regions",
    ),
}
"""Methods by name (`config.data.regions.method`)."""


def used(config: Any) -> bool:
    """Whether a `config.data.regions` asks for regions at all."""
    return config.method != "none"


def levels(config: Any) -> int:
    """The number of partitions of each image that a `config.data.regions` asks for."""
    return len(config[config.method][METHODS[config.method].level_option])


def check(config: Any) -> None:
    """Raises UserError for a `config.data.regions` whose values do not fit together, and without scikit-image."""
    path = "config.data.regions"
    check_known(path, ("none", *METHODS), method=config.method)
    if not used(config):
        return
    version()
    if config.sample > config.count:
        raise UserError(f"{path}.sample={config.sample} must be at most {path}.count={config.count}; 0 takes all")
    method, options, path = METHODS[config.method], config[config.method], f"{path}.{config.method}"
    values = tuple(options[method.level_option])
    good = values and all(isinstance(v, method.kind) and v > 0 for v in values)
    if not (good and all(a < b for a, b in itertools.pairwise(values if method.rising else values[::-1]))):
        raise UserError(f"{path}.{method.level_option}={values} must be {method.wanted}")


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
