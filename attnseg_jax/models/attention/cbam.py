"""Convolutional block attention: a gate of channels, then a gate of positions."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.conv import BatchNorm, Conv
from attnseg_jax.models.layers.gates import ChannelScores, channel_length, gated, pooled
from attnseg_jax.models.options import option
from attnseg_jax.models.records import GateMap, sow_record


class CBAM(Attention):
    """`y = x * sigmoid(f(mean x) + f(max x))`, pooled over positions, then `y * sigmoid(norm(conv([max y, mean y])))`.

    The second pair is pooled over channels. O(N (c + kernel_size^2) + c^2 / reduction). Woo et al. 2018,
    arXiv:1807.06521; after github.com/Jongchan/attention-module. Means and sigmoids are float32.

    Attributes:
      reduction: the hidden width of `f` is the channels divided by it, at least 1.
      kernel_size: of the spatial gate's convolution, odd.
      lp: the channel gate also sees the length of each channel, the root of its sum of squares.
      lse: the channel gate also sees the logarithm of each channel's sum of exponentials.
    """

    reduction: int = option(16, at_least=1)
    kernel_size: int = option(7, at_least=1, at_most=255, odd=True)
    lp: bool = False
    lse: bool = False

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the gated map; the gates `[b, 1, 1, c]` and `[b, h, w, 1]` are `cbam_channel` and `cbam_spatial`."""
        scores = ChannelScores(self.reduction, True, self.dtype, name="scores")
        total = scores(pooled(x)) + scores(x.max((1, 2), keepdims=True))
        if self.lp:
            total = total + scores(channel_length(x))
        if self.lse:
            total = total + scores(jax.nn.logsumexp(x.astype(jnp.float32), axis=(1, 2), keepdims=True))
        channel = nn.sigmoid(total)
        x = gated(x, channel)
        mean = x.mean(-1, keepdims=True, dtype=jnp.float32).astype(x.dtype)
        y = jnp.concatenate([x.max(-1, keepdims=True), mean], axis=-1)
        y = Conv(1, self.kernel_size, dtype=self.dtype, name="spatial_conv")(y)
        spatial = nn.sigmoid(BatchNorm(momentum=0.01, name="spatial_bn")(y, train=train))
        sow_record(self, "cbam_channel", GateMap(channel))
        sow_record(self, "cbam_spatial", GateMap(spatial))
        return gated(x, spatial)
