"""Interlaced self-attention (Huang et al. 2019, arXiv:1907.12273), after github.com/openseg-group/openseg.pytorch."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.layers.conv import Conv, ConvBN
from attnseg_jax.models.layers.residual import drop_channels
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, DotProductMap, sow_record
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention import interlaced as interlaced_ops


class Interlaced(Attention):
    """Two sparse stages in place of one dense: first far, between positions modulo `factors`, then near, within blocks.

    Together every position reaches all others in O(n (n / p + p) c) time, `p` positions in a block. The original's head
    ends in a 1x1 classifier: the decoder `fcn` with `convs=0`.

    Attributes:
      factors: rows and columns of a block.
      further: rows and columns of other blocks, such as (4, 4, 2, 2), whose stages work beside the first ones.
      channels: of the 3x3 convolution before attention, of the values and of the result; 0 keeps the map's up to 512,
        the original's.
      key_channels: of queries and keys; 0 takes half of `channels`.
      dropout: rate at which whole channels of the result are dropped in training.
    """

    factors: tuple[int, int] = option((8, 8), at_least=1, at_most=1024, lengths=(2,))
    further: tuple[int, ...] = option((), at_least=1, at_most=1024)
    channels: int = option(0, at_least=0)
    key_channels: int = option(0, at_least=0)
    dropout: float = option(0.05, at_least=0, below=1)
    impl: str = "auto"

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w _c"]:
        """Returns another map; what the stages attend to is recorded as `interlaced_far` and `interlaced_near`."""
        channels = lead_width(self.channels, x)
        x = ConvBN(channels, dtype=self.dtype, use_bias=True, name="lead_in")(x, train=train)
        return self.context(x, channels, train=train)

    @nn.compact
    def context(self, x: Float[Array, "b h w c"], channels: int, *, train: bool = False) -> Float[Array, "b h w d"]:
        """A 1x1 convolution, to `channels`, of every position and what both stages gather for it.

        Beside the stages of several factors stands not the position itself, but a 1x1 convolution to their channels.
        """
        if len(self.further) % 2:
            raise OptionError("further", self.further, "must be pairs of rows and columns, one after another")
        pairs = [self.factors, *zip(self.further[::2], self.further[1::2])]
        if len(pairs) == 1:
            parts = [x, self.stages(x, channels, train=train)]
        else:
            parts = [ConvBN(len(pairs) * channels, 1, dtype=self.dtype, name="up")(x, train=train)]
            for i, pair in enumerate(pairs):
                stage = self.clone(parent=self, name=f"stage{i}", factors=pair, further=())
                parts.append(stage.stages(x, channels, train=train))
        y = jnp.concatenate(parts, axis=-1)
        y = ConvBN(channels, 1, dtype=self.dtype, name="out")(y, train=train)
        return drop_channels(y, self.dropout, train=train)

    @nn.compact
    def stages(self, x: Float[Array, "b h w c"], channels: int, *, train: bool = False) -> Float[Array, "b h w d"]:
        """Attention between the positions that agree modulo `factors`, then within blocks of `factors` positions.

        The map is zero-padded to a multiple of the factors, and the padding takes part. The result has `channels`.
        """
        h, w = x.shape[1:3]
        if not all(f <= n for f, n in zip(self.factors, (h, w))):
            hint = (
                f"does not fit a map of {h}x{w} positions: choose two numbers from 1 to its height and width, or give "
                "larger images"
            )
            raise OptionError("factors", self.factors, hint)
        key_channels = self.key_channels or max(channels // 2, 1)
        x = interlaced_ops.pad_to_multiple(x, self.factors)
        padded = x.shape[1:3]
        for reach in interlaced_ops.REACHES:
            groups = interlaced_ops.split(x, self.factors, reach)
            y, in_groups = self.clone(parent=self, name=reach).group(groups, key_channels, channels, train=train)
            record = functools.partial(self._record, in_groups, groups.shape[:3], reach, padded, (h, w))
            sow_record(self, f"interlaced_{reach}", record)
            x = interlaced_ops.join(y, padded, self.factors, reach)
        return interlaced_ops.crop_to_size(x, (h, w))

    @nn.compact
    def group(
        self, x: Float[Array, "g i j c"], key_channels: int, channels: int, *, train: bool = False
    ) -> tuple[Float[Array, "g i j d"], DotProductMap]:
        """Single-head attention of all positions of a group to each other: `out(attend(query(x), key(x), value(x)))`.

        Queries and keys have `key_channels`, the result `channels`. Returns also who attends to what within a group.
        """
        g, i, j, _ = x.shape

        def project(name):
            y = x
            for layer in range(2):
                y = ConvBN(key_channels, 1, dtype=self.dtype, name=f"{name}{layer}")(y, train=train)
            return y.reshape(g, i * j, 1, key_channels)

        q, k = project("query"), project("key")
        values = self.channels or channels
        v = Conv(values, 1, dtype=self.dtype, name="value")(x).reshape(g, i * j, 1, values)
        y = attention_ops.dot_product_attention(q, k, v, impl=self.impl).reshape(g, i, j, values)
        return ConvBN(channels, 1, dtype=self.dtype, name="out")(y, train=train), DotProductMap(q, k)

    def _record(
        self,
        in_groups: DotProductMap,
        shape: tuple[int, int, int],
        reach: str,
        padded: tuple[int, int],
        size: tuple[int, int],
    ) -> AttentionMap:
        """What every position of the map of `size` attends to, from the weights within the groups of `shape`."""
        weights = interlaced_ops.join(in_groups.weights.reshape(*shape, -1), padded, self.factors, reach)
        weights = interlaced_ops.crop_to_size(weights, size)
        keys = interlaced_ops.member_positions(size, self.factors, reach)
        return AttentionMap(weights.reshape(weights.shape[0], 1, -1, weights.shape[-1]), keys, size, size)
