"""A small convolutional backbone with a small receptive field."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import check_least
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import ConvBN, Dtype


class Tiny(nn.Module):
    """Two strided convolutions and one residual block; a pixel of the stride-4 map sees 15 pixels to each side.

    The short reach is its purpose: what lies farther away can be used by attention only.

    Attributes:
      width: channels of the stride-4 map; the stride-2 map has half of them.
      dtype: compute type.
    """

    width: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns maps at the strides 2 and 4.

        Raises:
          UserError: a width below 2.
        """
        check_least("config.model.backbone.tiny", 2, width=self.width)
        x = ConvBN(self.width // 2, stride=2, dtype=self.dtype, name="stem")(image, train=train)
        maps = {2: x}
        x = ConvBN(self.width, stride=2, dtype=self.dtype, name="down")(x, train=train)
        x = ConvBN(self.width, dtype=self.dtype, name="conv")(x, train=train)
        y = ConvBN(self.width, dtype=self.dtype, name="block1")(x, train=train)
        y = ConvBN(self.width, relu=False, dtype=self.dtype, name="block2")(y, train=train)
        maps[4] = nn.relu(x + y)
        return Features(maps)
