"""Interlaced self-attention (Huang et al. 2019, arXiv:1907.12273), after github.com/openseg-group/openseg.pytorch."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_least, check_rate
from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype
from attnseg_jax.models.records import AttentionMap, DotProductMap
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention import interlaced

Records = dict[str, AttentionMap]
_KEY = "config.model.attention.interlaced"


class GroupAttention(nn.Module):
    """Single-head attention of all positions of a group to each other: `out(attend(query(x), key(x), value(x)))`.

    Attributes:
      key_channels: of queries and keys.
      value_channels: of values.
      channels: of the result.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    key_channels: int
    value_channels: int
    channels: int
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "g i j c"], *, train: bool = False
    ) -> tuple[Float[Array, "g i j d"], DotProductMap]:
        """Returns the result and who attends to what."""
        g, i, j, _ = x.shape

        def project(name):
            y = x
            for layer in range(2):
                y = ConvBN(self.key_channels, 1, dtype=self.dtype, name=f"{name}{layer}")(y, train=train)
            return y.reshape(g, i * j, 1, self.key_channels)

        q, k = project("query"), project("key")
        v = Conv(self.value_channels, 1, dtype=self.dtype, name="value")(x).reshape(g, i * j, 1, self.value_channels)
        y = attention_ops.dot_product_attention(q, k, v, impl=self.impl)
        y = y.reshape(g, i, j, self.value_channels)
        return ConvBN(self.channels, 1, dtype=self.dtype, name="out")(y, train=train), DotProductMap(q, k)


class InterlacedBlock(nn.Module):
    """Attention between the positions that agree modulo `factors`, then within blocks of `factors` positions.

    The map is zero-padded to a multiple of the factors, and the padding takes part.

    Attributes:
      key_channels: of queries and keys.
      value_channels: of values.
      channels: of the result.
      factors: rows and columns.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    key_channels: int
    value_channels: int
    channels: int
    factors: tuple[int, int] = (8, 8)
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b h w d"], Records]:
        """Returns the result and what each stage, `far` and `near`, attends to.

        Raises:
          UserError: factors larger than the map.
        """
        b, h, w, _ = x.shape
        if len(self.factors) != 2 or not all(1 <= f <= n for f, n in zip(self.factors, (h, w))):
            raise UserError(
                f"{_KEY}.factors={self.factors} does not fit a map of {h}x{w} positions: "
                "choose two numbers from 1 to its height and width, or give larger images"
            )
        x = interlaced.pad_to_multiple(x, self.factors)
        padded = x.shape[1:3]
        maps = {}
        for reach in interlaced.REACHES:
            groups = interlaced.split(x, self.factors, reach)
            attend = GroupAttention(
                self.key_channels, self.value_channels, self.channels, self.impl, self.dtype, name=reach
            )
            y, record = attend(groups, train=train)
            weights = record.weights.reshape(*groups.shape[:3], -1)
            weights = interlaced.crop_to_size(interlaced.join(weights, padded, self.factors, reach), (h, w))
            keys = interlaced.member_positions((h, w), self.factors, reach)
            maps[reach] = AttentionMap(weights.reshape(b, 1, h * w, -1), keys, query_size=(h, w), key_size=(h, w))
            x = interlaced.join(y, padded, self.factors, reach)
        return interlaced.crop_to_size(x, (h, w)), maps


class InterlacedContext(nn.Module):
    """A 1x1 convolution of every position and its context: `out([x, block(x)])`.

    Attributes as in `InterlacedBlock`; `dropout`: rate at which whole channels of the result are dropped in training.
    """

    key_channels: int
    value_channels: int
    channels: int
    factors: tuple[int, int] = (8, 8)
    dropout: float = 0.05
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> tuple[Float[Array, "b h w d"], Records]:
        """Returns the result and what each stage, `far` and `near`, attends to."""
        block = InterlacedBlock(
            self.key_channels,
            self.value_channels,
            self.channels,
            self.factors,
            self.impl,
            self.dtype,
            name="block",
        )
        context, maps = block(x, train=train)
        y = jnp.concatenate([x, context], axis=-1)
        y = ConvBN(self.channels, 1, dtype=self.dtype, name="out")(y, train=train)
        return nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(y), maps


class Interlaced(Attention):
    """Two sparse stages in place of one dense: first far, between positions modulo `factors`, then near, within blocks.

    Together every position reaches all others in O(n (n / p + p) c) time, `p` positions in a block. Huang et al. 2019
    (arXiv:1907.12273); github.com/openseg-group/openseg.pytorch. The original's head ends in a 1x1 classifier:
    `config.model.decoder.fcn.convs=0`.

    Attributes:
      factors: rows and columns of a block.
      channels: of the 3x3 convolution before attention, of the values and of the result; 0 keeps the map's up to 512,
        the original's.
      key_channels: of queries and keys; 0 takes half of `channels`.
      dropout: rate at which whole channels of the result are dropped in training.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    factors: tuple[int, int] = (8, 8)
    channels: int = 0
    key_channels: int = 0
    dropout: float = 0.05
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over.

        What the stages attend to goes to `attention['interlaced_far0']` and `attention['interlaced_near0']`.

        Raises:
          UserError: factors larger than the map, or another option out of its range.
        """
        check_least(_KEY, 0, channels=self.channels, key_channels=self.key_channels)
        check_rate(_KEY, dropout=self.dropout)
        channels = lead_width(self.channels, features.deepest)
        x = ConvBN(channels, dtype=self.dtype, use_bias=True, name="lead_in")(features.deepest, train=train)
        context = InterlacedContext(
            self.key_channels or max(channels // 2, 1),
            channels,
            channels,
            self.factors,
            self.dropout,
            self.impl,
            self.dtype,
            name="context",
        )
        x, maps = context(x, train=train)
        for reach, record in maps.items():
            features = features.with_attention(f"interlaced_{reach}", record)
        return features.with_deepest(x)
