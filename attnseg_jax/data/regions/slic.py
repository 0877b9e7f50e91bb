"""Region proposals by k-means on colour and position (SLIC, Achanta et al. 2012), computed by scikit-image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from attnseg_jax.data.regions.level_values import check_levels
from attnseg_jax.errors import UserError


class Slic:
    """The method 'slic'; see `methods.Method`."""

    level_option = "segments"

    @staticmethod
    def divide(
        image: UInt8[np.ndarray, "h w 3"], segments: int, options: Mapping[str, Any]
    ) -> Integer[np.ndarray, "h w"]:
        """About `segments` regions; the larger `compactness`, the more position counts against colour."""
        from skimage.segmentation import slic

        return slic(image, n_segments=segments, compactness=options["compactness"], start_label=0)

    @staticmethod
    def check(options: Mapping[str, Any], path: str) -> None:
        """Raises UserError for an option that cannot be; `path` is the config key of the options."""
        if not options["compactness"] > 0:
            raise UserError(f"{path}.compactness={options['compactness']} must be above 0")
        check_levels(
            f"{path}.segments",
            tuple(options["segments"]),
            kind=int,
            rising=False,
            wanted="integers above 0 from large to small, one for each level: how many regions",
        )
