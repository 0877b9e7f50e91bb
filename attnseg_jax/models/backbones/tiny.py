"""A small convolutional backbone with a small receptive field."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import ConvBN
from attnseg_jax.models.options import option


class Tiny(Backbone):
    """Two strided convolutions and one residual block; a pixel of the stride-4 map sees 15 pixels to each side.

    The short reach is its purpose: what lies farther away can be used by attention only.

    Attributes:
      width: channels of the stride-4 map; the stride-2 map has half of them.
    """

    width: int = option(64, at_least=2)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns maps at the strides 2 and 4."""
        x = ConvBN(self.width // 2, stride=2, dtype=self.dtype, name="stem")(image, train=train)
        maps = {2: x}
        x = ConvBN(self.width, stride=2, dtype=self.dtype, name="down")(x, train=train)
        x = ConvBN(self.width, dtype=self.dtype, name="conv")(x, train=train)
        y = ConvBN(self.width, dtype=self.dtype, name="block1")(x, train=train)
        y = ConvBN(self.width, activation=None, dtype=self.dtype, name="block2")(y, train=train)
        maps[4] = nn.relu(x + y)
        return Features(maps)
