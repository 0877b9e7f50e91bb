"""VGG-16 (Simonyan & Zisserman 2015, arXiv:1409.1556) with output stride 8, 16 or 32, after torchvision's `vgg.py`."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, output_stride_option, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import BatchNorm, Conv
from attnseg_jax.ops import pool

# Name in `Features.extras` of {stride of a map: where in it the maxima of its pooling stand}.
POOL_INDICES = "pool_indices"


class VGG(Backbone):
    """VGG without its classifier; maps at the nominal strides 1, 2, 4, 8, 16 (each before its pooling) and 32.

    A map is what the last ReLU of its stage puts out; that of stride 32 is the last pooling's result. The
    poolings' indices are in `extras["pool_indices"]`, by the stride of the map they point into, for un-pooling.

    Where the output stride is below 32 the last poolings keep their resolution, as do the convolutions behind them,
    whose taps then stand farther apart, as those of the next pooling do: every other pixel is that of stride 32. Such
    poolings leave no indices.

    Layers are named as in torchvision by their number, which counts norms, ReLUs and poolings too. A subclass
    names the convolutions of its five stages (`depths`) and whether a norm follows each (`norm`).

    Attributes:
      output_stride: 8, 16 or 32.
    """

    depths: ClassVar[tuple[int, ...]]
    norm: ClassVar[bool]
    layouts = ("torchvision_vgg",)

    output_stride: int = output_stride_option()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        self.check_size(image, self.output_stride)
        x, maps, indices, number, dilation = image, {}, {}, 0, 1
        for stage, depth in enumerate(self.depths):
            stride = 2**stage
            for _ in range(depth):
                conv = Conv(
                    min(64 * stride, 512), dilation=dilation, use_bias=True, dtype=self.dtype, name=f"features{number}"
                )
                x = conv(x)
                if self.norm:
                    x = BatchNorm(dtype=self.dtype, name=f"features{number + 1}")(x, train=train)
                x = nn.relu(x)
                number += 3 if self.norm else 2
            maps[stride] = x
            if stride < self.output_stride:
                x, indices[stride] = pool.max_pool_with_indices(x, 2)
            else:
                x = jnp.pad(x, ((0, 0), (0, dilation), (0, dilation), (0, 0)), constant_values=-jnp.inf)
                x = pool.max_pool(x, 2, 1, dilation=dilation)
                dilation *= 2
            number += 1
        maps[2 * stride] = x
        return Features(maps, {POOL_INDICES: indices})


VGG16 = variant(VGG, "VGG16", depths=(2, 2, 3, 3, 3), norm=False)
VGG16_BN = variant(VGG, "VGG16_BN", depths=(2, 2, 3, 3, 3), norm=True)
