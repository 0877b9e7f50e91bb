"""Convolutional block attention: a gate of channels, then a gate of positions."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError
from attnseg_jax.models.attention.base import Attention, Records
from attnseg_jax.models.attention.se import ChannelScores, gated, pooled, reduced
from attnseg_jax.models.features import Features, numbered
from attnseg_jax.models.layers.conv import BatchNorm, Conv, Dtype
from attnseg_jax.models.records import GateMap


class CBAMBlock(nn.Module):
    """`y = x * sigmoid(f(mean x) + f(max x))`, pooled over positions, then `y * sigmoid(norm(conv([max y, mean y])))`.

    The second pair is pooled over channels.

    Attributes:
      reduction: the hidden width of `f` is the channels divided by it, at least 1.
      kernel_size: of the spatial convolution, odd.
      dtype: compute type; means and sigmoids are float32.
    """

    reduction: int = 16
    kernel_size: int = 7
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b h w c"], Records]:
        """Returns the gated map; the gates `[b, 1, 1, c]` and `[b, h, w, 1]` as `cbam_channel` and `cbam_spatial`."""
        scores = ChannelScores(self.reduction, True, self.dtype, name="scores")
        channel = nn.sigmoid(scores(pooled(x)) + scores(x.max((1, 2), keepdims=True)))
        x = gated(x, channel)
        mean = x.mean(-1, keepdims=True, dtype=jnp.float32).astype(x.dtype)
        y = jnp.concatenate([x.max(-1, keepdims=True), mean], axis=-1)
        y = Conv(1, self.kernel_size, dtype=self.dtype, name="spatial_conv")(y)
        spatial = nn.sigmoid(BatchNorm(momentum=0.01, name="spatial_bn")(y, train=train))
        return gated(x, spatial), {"cbam_channel": GateMap(channel), "cbam_spatial": GateMap(spatial)}


class CBAM(Attention):
    """Channel gate from the mean and the maximum of the deepest map, then spatial gate from those of its channels.

    O(N (c + kernel_size^2) + c^2 / reduction). Woo et al. 2018, arXiv:1807.06521; after
    github.com/Jongchan/attention-module.

    Attributes:
      reduction: the hidden width of the channel gate is the channels divided by it, at least 1.
      kernel_size: of the spatial gate's convolution, odd.
      dtype: compute type; means and sigmoids are float32.
    """

    reduction: int = 16
    kernel_size: int = 7
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map gated; gates go to `attention['cbam_channel0']`, `cbam_spatial0`.

        Raises:
          UserError: the reduction is below 1 or the kernel size is even.
        """
        reduced(features.deepest.shape[-1], self.reduction, key="config.model.attention.cbam.reduction")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UserError(
                f"config.model.attention.cbam.kernel_size={self.kernel_size} must be odd: the gate keeps the map's size"
            )
        block = CBAMBlock(self.reduction, self.kernel_size, self.dtype, name="block")
        x, maps = block(features.deepest, train=train)
        return features.with_deepest(x).replace(attention=numbered(features.attention, maps))
