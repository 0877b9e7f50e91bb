"""Regions: an image divided into superpixels, on several levels, for models that classify regions.

`methods` divides an image, `cache` keeps the result on disk, `numbering` gives the regions the ids that a model sees.
A region map is int32 [h, w, l]: the region that each pixel belongs to on each of l levels, -1 (`NO_REGION`) for none.
"""

from attnseg_jax.data.regions.cache import cached, with_regions
from attnseg_jax.data.regions.methods import METHODS, check, levels, propose, selected, used
from attnseg_jax.data.regions.numbering import NO_REGION, coarse_and_large_first, for_model, sampled

__all__ = [
    "METHODS",
    "NO_REGION",
    "cached",
    "check",
    "coarse_and_large_first",
    "for_model",
    "levels",
    "propose",
    "sampled",
    "selected",
    "used",
    "with_regions",
]
