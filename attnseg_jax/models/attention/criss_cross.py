"""Criss-cross attention (CCNet, Huang et al. 2019, arXiv:1811.11721): every pixel attends to its row and column."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import check_least
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype, torch_default_init
from attnseg_jax.models.records import AttentionMap
from attnseg_jax.ops.attention import criss_cross as criss_cross_ops

_LEAST_CHANNELS = 64
_SLOPE = 0.01


class CrissCross(nn.Module):
    """`x + gamma * attend(x)` over row and column, `recurrence` times with the same parameters.

    `gamma` starts at 1. The original's 0 leaves what takes two passes with a gradient of `gamma ** 2`: on the
    `context` set nothing beyond a cross is then learned in 400 steps (mIoU 0.357, with 1 it is 0.975).

    Attributes:
      recurrence: number of passes; after two every pixel has seen every other.
      reduction: queries and keys have this many times fewer channels than the map, at least 1.
      dtype: compute type; the softmax is float32.
    """

    recurrence: int = 2
    reduction: int = 8
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], list[AttentionMap]]:
        """Returns the map after all passes and the weights of each."""
        b, h, w, c = x.shape
        narrow = max(c // self.reduction, 1)
        query, key, value = (
            Conv(width, 1, use_bias=True, dtype=self.dtype, kernel_init=torch_default_init, name=name)
            for name, width in (("query", narrow), ("key", narrow), ("value", c))
        )
        gamma = self.param("gamma", nn.initializers.ones, (1,), jnp.float32).astype(self.dtype)[None, None, None]
        maps = []
        for _ in range(self.recurrence):
            q, k = query(x), key(x)
            weights = criss_cross_ops.criss_cross_weights(q, k).reshape(b, 1, h * w, h + w)
            maps.append(AttentionMap(weights, criss_cross_ops.criss_cross_keys((h, w)), (h, w), (h, w)))
            x = gamma * criss_cross_ops.criss_cross_attention(q, k, value(x)) + x
        return x, maps


class CrissCrossAttention(Attention):
    """`bottleneck([x, convb(cca(conva(x)))])`, `cca` = recurrent criss-cross attention; O(n (h + w)) a pass.

    The head of CCNet (arXiv:1811.11721, speedinghzl/CCNet) up to its classifier, which is the decoder `fcn` with
    `convs=0`; rectifiers leak 0.01 as its in-place ABN does.

    Attributes:
      recurrence: passes of criss-cross attention with shared parameters.
      reduction: queries and keys have this many times fewer channels.
      channels: that the attention acts on; 0 takes a quarter of the map's, or 64 where that is more and there are such.
      out_channels: of the result; 0 takes a quarter of the map's.
      dtype: compute type; softmax and normalisation are float32.
    """

    recurrence: int = 2
    reduction: int = 8
    channels: int = 0
    out_channels: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with another deepest map; the weights of each pass go to `criss_cross0` and so on.

        Raises:
          UserError: a recurrence or reduction below 1, or negative channels.
        """
        path = "config.model.attention.criss_cross"
        check_least(path, 1, recurrence=self.recurrence, reduction=self.reduction)
        check_least(path, 0, channels=self.channels, out_channels=self.out_channels)
        x = features.deepest
        c = x.shape[-1]
        channels = self.channels or min(c, max(c // 4, _LEAST_CHANNELS))

        def convolve(x: Array, width: int, name: str) -> Array:
            y = ConvBN(width, relu=False, dtype=self.dtype, name=name)(x, train=train)
            return nn.leaky_relu(y, _SLOPE)

        y = convolve(x, channels, "conva")
        y, maps = CrissCross(self.recurrence, self.reduction, self.dtype, name="cca")(y)
        for record in maps:
            features = features.with_attention("criss_cross", record)
        y = convolve(y, channels, "convb")
        both = jnp.concatenate([x.astype(self.dtype), y], axis=-1)
        return features.with_deepest(convolve(both, self.out_channels or max(c // 4, 1), "bottleneck"))
