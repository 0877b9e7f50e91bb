"""The encoder of SegNet-Basic (Badrinarayanan et al. 2017, arXiv:1511.00561), after alexgkendall/SegNet-Tutorial."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import check_least
from attnseg_jax.models.backbones.base import check_size
from attnseg_jax.models.backbones.vgg import POOL_INDICES
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import ConvBN, Dtype
from attnseg_jax.ops import pool


class SegNetBasic(nn.Module):
    """Four 7x7 convolutions (each with normalisation and rectifier), a pooling after each.

    Maps are at the nominal strides 1, 2, 4, 8 (each before its pooling) and 16, the last pooling's result. The
    poolings' indices are in `extras["pool_indices"]`, by the stride of the map they point into; the decoder that goes
    with them is `segnet` with `depths=(2, 1, 1, 1)`, `kernel_size=7`, `classifier_size=1`, `relu=False`.

    The original's local response normalisation of raw pixels is left out: images come normalised by mean and standard
    deviation. Its convolutions' biases, which the normalisation behind them undoes, are left out too.

    Attributes:
      width: channels of every map.
      dtype: compute type.
    """

    key: ClassVar[str] = "segnet_basic"

    width: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised).

        Raises:
          UserError: a width below 1, or an image of fewer than 16 pixels in height or width.
        """
        check_least(f"config.model.backbone.{self.key}", 1, width=self.width)
        check_size(self.key, image.shape[1:3], 16)
        x, maps, indices = image, {}, {}
        for stage in range(4):
            stride = 2**stage
            maps[stride] = ConvBN(self.width, 7, dtype=self.dtype, name=f"conv{stage + 1}")(x, train=train)
            x, indices[stride] = pool.max_pool_with_indices(maps[stride], 2)
        return Features({**maps, 16: x}, {POOL_INDICES: indices})
