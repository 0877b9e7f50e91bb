"""Region proposals by merging neighbours (Felzenszwalb and Huttenlocher 2004), computed by scikit-image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from attnseg_jax.data.regions.level_values import check_levels
from attnseg_jax.errors import check_least


class Felzenszwalb:
    """The method 'felzenszwalb'; see `methods.Method`."""

    level_option = "scales"

    @staticmethod
    def divide(
        image: UInt8[np.ndarray, "h w 3"], scale: float, options: Mapping[str, Any]
    ) -> Integer[np.ndarray, "h w"]:
        """Regions of at least `min_size` pixels; the larger `scale`, the more is merged."""
        from skimage.segmentation import felzenszwalb

        return felzenszwalb(image, scale=scale, sigma=options["sigma"], min_size=options["min_size"])

    @staticmethod
    def check(options: Mapping[str, Any], path: str) -> None:
        """Raises UserError for an option that cannot be; `path` is the config key of the options."""
        check_least(path, 0, sigma=options["sigma"])
        check_least(path, 1, min_size=options["min_size"])
        check_levels(
            f"{path}.scales",
            tuple(options["scales"]),
            kind=int | float,
            rising=True,
            wanted="numbers above 0 from small to large, one for each level: the larger, the more is merged",
        )
