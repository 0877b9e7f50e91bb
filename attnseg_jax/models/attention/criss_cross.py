"""Criss-cross attention (CCNet, Huang et al. 2019, arXiv:1811.11721): every pixel attends to its row and column."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.conv import Conv, ConvBN, torch_default_init
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, sow_record
from attnseg_jax.ops.attention import criss_cross as criss_cross_ops

_LEAST_CHANNELS = 64


class CrissCrossAttention(Attention):
    """`bottleneck([x, convb(cross(conva(x)))])`, `cross` = recurrent criss-cross attention; O(n (h + w)) a pass.

    The head of speedinghzl/CCNet up to its classifier, which is the decoder `fcn` with `convs=0`; ReLUs leak 0.01 as
    its in-place ABN does.

    Attributes:
      recurrence: passes of criss-cross attention with shared parameters; after two every pixel has seen every other.
      reduction: queries and keys have this many times fewer channels.
      channels: that the attention acts on; 0 takes a quarter of the map's, or 64 where that is more and there are such.
      out_channels: of the result; 0 takes a quarter of the map's.
    """

    recurrence: int = option(2, at_least=1, at_most=100)
    reduction: int = option(8, at_least=1)
    channels: int = option(0, at_least=0)
    out_channels: int = option(0, at_least=0)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w _c"]:
        """Returns another map; the weights of each pass are recorded as `criss_cross`."""
        c = x.shape[-1]
        channels = self.channels or min(c, max(c // 4, _LEAST_CHANNELS))

        def convolve(x: Array, width: int, name: str) -> Array:
            return ConvBN(width, activation=nn.leaky_relu, dtype=self.dtype, name=name)(x, train=train)

        y = self.cross(convolve(x, channels, "conva"))
        y = convolve(y, channels, "convb")
        both = jnp.concatenate([x.astype(self.dtype), y], axis=-1)
        return convolve(both, self.out_channels or max(c // 4, 1), "bottleneck")

    @nn.compact
    def cross(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """`x + gamma * attend(x)` over row and column, `recurrence` times with the same parameters.

        `gamma` starts at 1. The original's 0 leaves what takes two passes with a gradient of `gamma ** 2`: nothing
        beyond a cross is then learned in a short training.
        """
        b, h, w, c = x.shape
        narrow = max(c // self.reduction, 1)
        query, key, value = (
            Conv(width, 1, use_bias=True, dtype=self.dtype, kernel_init=torch_default_init, name=name)
            for name, width in (("query", narrow), ("key", narrow), ("value", c))
        )
        gamma = self.param("gamma", nn.initializers.ones, (1,), jnp.float32).astype(self.dtype)[None, None, None]
        for _ in range(self.recurrence):
            q, k = query(x), key(x)

            def record(q: Array = q, k: Array = k) -> AttentionMap:
                weights = criss_cross_ops.criss_cross_weights(q, k).reshape(b, 1, h * w, h + w)
                return AttentionMap(weights, criss_cross_ops.criss_cross_keys((h, w)), (h, w), (h, w))

            sow_record(self, "criss_cross", record)
            x = gamma * criss_cross_ops.criss_cross_attention(q, k, value(x)) + x
        return x
