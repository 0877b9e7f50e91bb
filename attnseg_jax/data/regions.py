"""Region proposals: partitions of an image, from fine to coarse, by scikit-image, which is imported only when used."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from attnseg_jax.data import region_cache
from attnseg_jax.errors import UserError, check_known, check_least
from attnseg_jax.ops.labels import IGNORE_LABEL

NO_REGION = -1

Regions = Int32[np.ndarray, "h w l"]


def _felzenszwalb(image: np.ndarray, scale: float, options: Mapping[str, Any]) -> np.ndarray:
    from skimage.segmentation import felzenszwalb

    return felzenszwalb(image, scale=scale, sigma=options["sigma"], min_size=options["min_size"])


def _slic(image: np.ndarray, segments: int, options: Mapping[str, Any]) -> np.ndarray:
    from skimage.segmentation import slic

    return slic(image, n_segments=segments, compactness=options["compactness"], start_label=0)


# Name -> the function, and the key of the tuple that has a value for each level.
METHODS = {"felzenszwalb": (_felzenszwalb, "scales"), "slic": (_slic, "segments")}


def used(config: Any) -> bool:
    """Whether a `config.data.regions` asks for regions at all."""
    return config.method != "none"


def levels(config: Any) -> int:
    """The number of partitions of each image that a `config.data.regions` asks for."""
    return len(config[config.method][METHODS[config.method][1]])


def selected(config: Mapping[str, Any]) -> dict[str, Any]:
    """A `config.data.regions` without the options of what its method does not use.

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
    _version()
    check_least(path, 1, count=config.count)
    check_least(path, 0, sample=config.sample)
    if config.sample > config.count:
        raise UserError(f"{path}.sample={config.sample} must be at most {path}.count={config.count}; 0 takes all")
    path, options, key = f"{path}.{config.method}", config[config.method], METHODS[config.method][1]
    values = tuple(options[key])
    if config.method == "felzenszwalb":
        check_least(path, 0, sigma=options.sigma)
        check_least(path, 1, min_size=options.min_size)
        good, rising = all(isinstance(v, int | float) and v > 0 for v in values), values
        wanted = "numbers above 0 from small to large, one for each level: the larger, the more is merged"
    else:
        if not options.compactness > 0:
            raise UserError(f"{path}.compactness={options.compactness} must be above 0")
        good, rising = all(isinstance(v, int) and v > 0 for v in values), values[::-1]
        wanted = "integers above 0 from large to small, one for each level: how many regions"
    if not (values and good and all(a < b for a, b in itertools.pairwise(rising))):
        raise UserError(f"{path}.{key}={values} must be {wanted}")


def _version() -> str:
    try:
        import skimage
    except ImportError as error:
        raise UserError(
            "config.data.regions.method needs scikit-image, which is not installed: pip install scikit-image"
        ) from error
    return skimage.__version__


def propose(image: UInt8[np.ndarray, "h w 3"], config: Any) -> Regions:
    """Partitions of an image by superpixels, as a `config.data.regions` describes them.

    Level 0 is the finest.  Ids are unique over the levels and dense: 0 to n - 1 in level 0, from n in level 1.
    Felzenszwalb and Huttenlocher 2004, or SLIC (Achanta et al. 2012), both of scikit-image.
    """
    method, key = METHODS[config.method]
    options = config[config.method]
    maps, first = [], 0
    for value in options[key]:
        labels = method(image, value, options)
        found, dense = np.unique(labels, return_inverse=True)
        maps.append(dense.reshape(labels.shape) + first)
        first += len(found)
    return np.stack(maps, -1).astype(np.int32)


def cached(image: UInt8[np.ndarray, "h w 3"], config: Any) -> Regions:
    """As `propose`, from the cache where it is there, else put there; raises UserError if that is not possible."""
    made_by = {"method": config.method, "version": _version(), **config[config.method]}
    path = region_cache.folder(config.cache) / region_cache.file_name(image, made_by)
    regions = region_cache.read(path, (*image.shape[:2], levels(config)))
    if regions is None:
        regions = propose(image, config)
        region_cache.write(path, regions)
    return regions


def numbered(regions: Regions, count: int) -> Regions:
    """The regions that are shown, numbered densely from 0, the coarsest level first and there the largest.

    Those after the first `count` become -1.

    >>> numbered(np.array([[[0, 7]], [[2, 7]], [[2, 7]], [[5, 7]]], np.int32), 3)[:, 0].T.tolist()
    [[2, 1, 1, -1], [0, 0, 0, 0]]
    """
    areas = np.bincount(regions.ravel() + 1)[1:]
    level = np.zeros_like(areas)
    for number in range(regions.shape[-1]):
        ids = regions[..., number]
        level[ids[ids >= 0]] = number
    shown = np.flatnonzero(areas)
    order = shown[np.lexsort((shown, -areas[shown], -level[shown]))][:count]
    # One place more, which the -1 of pixels without a region looks up.
    table = np.full(len(areas) + 1, NO_REGION, np.int32)
    table[order] = np.arange(len(order))
    return table[regions]


def sampled(regions: Regions, number: int, rng: np.random.Generator) -> Regions:
    """So many of the regions 0 to n - 1, each as likely, numbered densely in the same order; the others become -1."""
    total = int(regions.max()) + 1
    table = np.full(total + 1, NO_REGION, np.int32)
    drawn = np.sort(rng.permutation(total)[:number])
    table[drawn] = np.arange(len(drawn))
    return table[regions]


def oracle(label: Integer[np.ndarray, "h w"], regions: Regions, num_classes: int) -> Int32[np.ndarray, "h w"]:
    """What regions allow: every pixel has the class that is most frequent in the finest region it belongs to.

    Counted are the labelled pixels for which a region is the finest; 255 where there are none, or no region.  Of
    equally frequent classes the first is taken.

    No labelling in which each pixel takes the one class of its finest region has more right pixels.  So this bounds the
    pixel accuracy of such labellings; their mean IoU only nearly, since it may gain where a region goes to a rare class
    that has less than half of it.  Systems that let coarse regions overrule fine ones may part a fine region along the
    border of a coarse one, and are not bounded where levels cut across each other.
    """
    finest = np.take_along_axis(regions, (regions >= 0).argmax(-1)[..., None], -1)[..., 0]
    counted = (finest >= 0) & (label != IGNORE_LABEL)
    total = int(regions.max()) + 1
    pairs = finest[counted] * num_classes + label[counted]
    counts = np.bincount(pairs, minlength=total * num_classes).reshape(total, num_classes)
    classes = np.where(counts.any(1), counts.argmax(1), IGNORE_LABEL)
    return np.append(classes, IGNORE_LABEL)[finest].astype(np.int32)
