"""The encoder of SegNet-Basic (Badrinarayanan et al. 2017, arXiv:1511.00561), after alexgkendall/SegNet-Tutorial."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone
from attnseg_jax.models.backbones.vgg import POOL_INDICES
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import ConvBN
from attnseg_jax.models.options import option
from attnseg_jax.ops import pool


class SegNetBasic(Backbone):
    """Four 7x7 convolutions (each with normalisation and ReLU), a pooling after each.

    Maps are at the nominal strides 1, 2, 4, 8 (each before its pooling) and 16, the last pooling's result. The
    poolings' indices are in `extras["pool_indices"]`, by the stride of the map they point into; the decoder that goes
    with them is `segnet` with `depths=(2, 1, 1, 1)`, `kernel_size=7`, `classifier_size=1`, `relu=False`.

    The original's local response normalisation of raw pixels is left out: images come normalised by mean and standard
    deviation. Its convolutions' biases, which the normalisation behind them undoes, are left out too.

    Attributes:
      width: channels of every map.
    """

    least_size = 16

    width: int = option(64, at_least=1)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        self.check_size(image)
        x, maps, indices = image, {}, {}
        for stage in range(4):
            stride = 2**stage
            maps[stride] = ConvBN(self.width, 7, dtype=self.dtype, name=f"conv{stage + 1}")(x, train=train)
            x, indices[stride] = pool.max_pool_with_indices(maps[stride], 2)
        return Features({**maps, 16: x}, {POOL_INDICES: indices})
