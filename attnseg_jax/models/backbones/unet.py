"""U-Net's encoder (Ronneberger et al. 2015, arXiv:1505.04597), after LeeJunHyun/Image_Segmentation's `network.py`."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import ConvBN
from attnseg_jax.models.options import option
from attnseg_jax.ops.pool import max_pool


class UNetEncoder(Backbone):
    """Two 3x3 convolutions (each with bias, normalisation and ReLU) at each stride, poolings between.

    Maps are at the strides 1, 2, 4, 8 and 16. Maps keep their size in a convolution; the paper's lose their margin.

    Attributes:
      width: channels of the finest map; every next one has twice as many.
    """

    layouts = ("leejunhyun_unet",)
    least_size = 16

    width: int = option(64, at_least=1)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        self.check_size(image)
        maps, x = {}, image
        for stage in range(5):
            x = max_pool(x, 2) if stage else x
            for i in (1, 2):
                conv = ConvBN(self.width * 2**stage, dtype=self.dtype, use_bias=True, name=f"conv{stage + 1}_{i}")
                x = conv(x, train=train)
            maps[2**stage] = x
        return Features(maps)
