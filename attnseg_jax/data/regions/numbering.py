"""The ids of regions that a model sees: few, dense, the coarsest and largest regions first."""

from typing import Any

import numpy as np
from jaxtyping import Int32

from attnseg_jax.ops.labels import IGNORE_LABEL

NO_REGION = -1
"""The id of a pixel without a region."""

Regions = Int32[np.ndarray, "h w l"]


def coarse_and_large_first(regions: Regions, count: int) -> Regions:
    """The regions that occur, with new ids from 0: first those of the coarsest level, and there first the largest.

    Only the first `count` are kept; pixels of the others have none (-1).

    >>> coarse_and_large_first(np.array([[[0, 7]], [[2, 7]], [[2, 7]], [[5, 7]]], np.int32), 3)[:, 0].T.tolist()
    [[2, 1, 1, -1], [0, 0, 0, 0]]
    """
    areas = np.bincount(regions.ravel() + 1)[1:]
    level = np.zeros_like(areas)
    for number in range(regions.shape[-1]):
        ids = regions[..., number]
        level[ids[ids >= 0]] = number
    present = np.flatnonzero(areas)
    order = present[np.lexsort((present, -areas[present], -level[present]))][:count]
    # One entry more, which the -1 of pixels without a region looks up.
    table = np.full(len(areas) + 1, NO_REGION, np.int32)
    table[order] = np.arange(len(order))
    return table[regions]


def sampled(regions: Regions, number: int, rng: np.random.Generator) -> Regions:
    """`number` of the regions 0 to n - 1, all equally likely, with dense ids in that order; the others become -1."""
    total = int(regions.max()) + 1
    table = np.full(total + 1, NO_REGION, np.int32)
    drawn = np.sort(rng.permutation(total)[:number])
    table[drawn] = np.arange(len(drawn))
    return table[regions]


def for_model(sample: dict[str, Any], config: Any, rng: np.random.Generator | None = None) -> dict[str, Any]:
    """A sample whose 'regions', if it has any, have the ids that a model sees, by a `config.data.regions`.

    With `rng`, in training, only `config.sample` of them are kept, and pixels of none of these lose their 'label'.
    """
    if "regions" not in sample:
        return sample
    regions = coarse_and_large_first(sample["regions"], config.count)
    if rng is None or not config.sample:
        return {**sample, "regions": regions}
    regions = sampled(regions, config.sample, rng)
    label = np.where((regions == NO_REGION).all(-1), np.int32(IGNORE_LABEL), sample["label"])
    return {**sample, "regions": regions, "label": label}
