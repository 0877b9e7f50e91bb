"""The sizes of images that a model is right for: those that all its maps divide into whole cells.

A map of 23 rows at stride 16 covers 368 rows. Drawn over an image of 360 rows it would be shifted, by 8 rows at the
bottom, and so would be a map of 22 rows. Such an image is padded to 368 rows, and what the model makes of it is cut.
"""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import UserError

# Height of the image that a backbone is asked about; the width is twice that. The first has all strides up to 64 that
# are powers of 2, times 7 for patches of 14 pixels; the second others, too.
_HEIGHTS = (448, 6720)
# Cells of an upsampled map that are a whole number of pixels together, at most: two of 3.5 pixels each, for one.
_UPSAMPLED = 8


@functools.lru_cache(maxsize=64)
def stride_multiple(backbone: nn.Module) -> int:
    """The least common multiple of the strides of a backbone's maps, in pixels, from their shapes alone.

    Images whose height and width are multiples of it need no padding. In those that are padded to the next multiple
    every cell of a map that has this stride holds some pixels of the image.

    Raises:
      UserError: the maps have no strides.
    """
    for height in _HEIGHTS:
        image = jax.ShapeDtypeStruct((1, height, 2 * height, 3), jnp.float32)
        init = functools.partial(backbone.clone(parent=None).init_with_output, jax.random.key(0))
        features, _ = jax.eval_shape(init, image)
        # Whatever a map has at its margins is there twice, and the difference is free of it.
        cells = [x.shape[2] - x.shape[1] for x in features.maps.values()]
        strides = [Fraction(height, n) for n in cells if n > 0]
        if len(strides) == len(cells) and all(stride.denominator <= _UPSAMPLED for stride in strides):
            return math.lcm(*(stride.numerator for stride in strides))
    raise UserError(
        f"{type(backbone).__name__}: its maps have no strides in whole pixels, so that it cannot be told which images "
        "they fit: give the class an attribute `size_multiple`, or set config.eval.size_multiple"
    )
