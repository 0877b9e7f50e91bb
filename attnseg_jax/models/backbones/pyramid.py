"""The simple feature pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527), after detectron2's `backbone/vit.py`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.blocks import ConvTranspose
from attnseg_jax.models.layers.conv import Conv, Dtype, layer_norm
from attnseg_jax.ops import pool
from attnseg_jax.ops.gelu import gelu

STRIDES = (4, 8, 16, 32)


class SimplePyramid(nn.Module):
    """Maps at the strides 4, 8, 16 and 32 from one map, by transposed convolutions and pooling, with no lateral paths.

    Each is followed by a 1x1 and a 3x3 convolution with layer normalisation. Pooling keeps the last odd row or column.

    Attributes:
      stride: nominal stride of the map it gets, one of `STRIDES`.
      channels: of all maps.
    """

    stride: int
    channels: int = 256
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> dict[int, Float[Array, "b _h _w o"]]:
        """Returns nominal stride -> map."""
        return {stride: self._level(x, stride) for stride in STRIDES}

    def _level(self, x: Array, stride: int) -> Array:
        for _ in range(max(stride // self.stride, 1).bit_length() - 1):
            x = pool.max_pool(x, 2, 2, ceil_mode=True)
        for i in range(max(self.stride // stride, 1).bit_length() - 1):
            if i:
                x = gelu(layer_norm(f"upsample_norm{stride}")(x).astype(self.dtype))
            x = ConvTranspose(x.shape[-1] // 2, dtype=self.dtype, name=f"upsample{stride}_{i}")(x)
        for kernel, name in ((1, "lateral"), (3, "output")):
            x = Conv(self.channels, kernel, dtype=self.dtype, name=f"{name}{stride}")(x)
            x = layer_norm(f"{name}_norm{stride}")(x).astype(self.dtype)
        return x
