"""Object context (Yuan et al. 2020, arXiv:1909.11065), after github.com/openseg-group/openseg.pytorch."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_least, check_rate
from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier
from attnseg_jax.models.records import AttentionMap, DotProductMap
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention.ocr import region_means, region_weights
from attnseg_jax.ops.pool import max_pool
from attnseg_jax.ops.resize import resize

_KEY = "config.model.attention.ocr"


class ObjectAttention(nn.Module):
    """Every position attends to the regions: `up(attend(pixel(x), object(regions), down(regions)))`.

    Attributes:
      key_channels: of queries, keys and values.
      scale: queries are max-pooled by this factor, and their result resized with aligned corners.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    key_channels: int
    scale: int = 1
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], regions: Float[Array, "b k c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], DotProductMap]:
        """Returns every position's context and how much of each region it takes.

        Raises:
          UserError: a scale larger than the map.
        """
        b, h, w, c = x.shape
        if not 1 <= self.scale <= min(h, w):
            raise UserError(
                f"{_KEY}.scale={self.scale} does not fit a map of {h}x{w} positions: "
                f"choose 1 to {min(h, w)}, or give larger images"
            )

        def conv(y, channels, name):
            return ConvBN(channels, 1, dtype=self.dtype, use_bias=True, name=name)(y, train=train)

        if self.scale > 1:
            x = max_pool(x, self.scale)
        size = x.shape[1:3]
        regions = regions[:, :, None]
        query = conv(conv(x, self.key_channels, "pixel0"), self.key_channels, "pixel1")
        key = conv(conv(regions, self.key_channels, "object0"), self.key_channels, "object1")
        value = conv(regions, self.key_channels, "down")
        q, k, v = (t.reshape(b, -1, 1, self.key_channels) for t in (query, key, value))
        y = attention_ops.dot_product_attention(q, k, v, impl=self.impl)
        y = conv(y.reshape(b, *size, self.key_channels), c, "up")
        return resize(y, (h, w), align_corners=True), DotProductMap(q, k, query_size=size)


class ObjectContext(nn.Module):
    """A 1x1 convolution of every position's context and itself: `out([attend(x, regions), x])`.

    Attributes:
      key_channels: of queries, keys and values.
      channels: of the result.
      scale: as in `ObjectAttention`.
      dropout: rate at which whole channels of the result are dropped in training.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    key_channels: int
    channels: int
    scale: int = 1
    dropout: float = 0.05
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], regions: Float[Array, "b k c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w d"], DotProductMap]:
        """Returns the map and how much of each region every position takes."""
        attend = ObjectAttention(self.key_channels, self.scale, self.impl, self.dtype, name="attend")
        context, record = attend(x, regions, train=train)
        y = jnp.concatenate([context, x], axis=-1)
        y = ConvBN(self.channels, 1, dtype=self.dtype, use_bias=True, name="out")(y, train=train)
        return nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(y), record


class OCR(Attention):
    """Every position attends to soft regions, the means of the map over what an auxiliary prediction calls a class.

    O(n k c) time. Yuan et al. 2020 (arXiv:1909.11065); github.com/openseg-group/openseg.pytorch. The original's head
    ends in a 1x1 classifier: `config.model.decoder.fcn.convs=0`.

    Attributes:
      num_classes: number of regions.
      regions: whose prediction makes the regions: `own`, or an auxiliary prediction that an earlier mechanism leaves,
        such as `danet_position`.
      aux_stride: nominal stride of the map the own prediction is made of; 0 takes the deepest, the original 16.
      channels: of the 3x3 convolution before the regions, and of the result; 0 keeps the map's up to 512, the
        original's.
      key_channels: of queries, keys and values; 0 takes half of `channels`.
      scale: queries are max-pooled by this factor.
      dropout: rate at which whole channels are dropped before the classifiers, in training.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    num_classes: int
    regions: str = "own"
    aux_stride: int = 0
    channels: int = 0
    key_channels: int = 0
    scale: int = 1
    dropout: float = 0.05
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over; the own prediction goes to `aux['ocr']`.

        What the regions are made of goes to `attention['ocr_regions0']` (a class's weights of the positions), what the
        positions take of them to `attention['ocr_pixels0']`.

        Raises:
          UserError: no such auxiliary prediction, or no map of the stride it is to be made of; an option out of its
            range.
        """
        check_least(_KEY, 0, channels=self.channels, key_channels=self.key_channels)
        check_rate(_KEY, dropout=self.dropout)
        deepest = features.deepest
        size = deepest.shape[1:3]
        channels = lead_width(self.channels, deepest)
        if self.regions == "own":
            logits = self._predict(features, channels, train)
            features = features.with_aux("ocr", logits)
        elif self.regions in features.aux:
            logits = features.aux[self.regions]
        else:
            there = ", ".join(sorted(features.aux)) or "none"
            raise UserError(
                f"{_KEY}.regions={self.regions!r} is no auxiliary prediction of an earlier "
                f"mechanism (there: {there}): put one before ocr, such as name='danet+ocr', or set regions='own'"
            )
        x = ConvBN(channels, dtype=self.dtype, use_bias=True, name="lead_in")(deepest, train=train)
        weights = region_weights(resize(logits, size))
        context = ObjectContext(
            self.key_channels or max(channels // 2, 1),
            channels,
            self.scale,
            self.dropout,
            self.impl,
            self.dtype,
            name="context",
        )
        x, record = context(x, region_means(x, weights), train=train)
        features = features.with_attention("ocr_regions", AttentionMap(weights[:, None], key_size=size))
        return features.with_attention("ocr_pixels", record).with_deepest(x)

    def _predict(self, features: Features, channels: int, train: bool) -> Array:
        stride = self.aux_stride or max(features.maps)
        if stride not in features.maps:
            raise UserError(
                f"{_KEY}.aux_stride={stride}: the backbone has maps of stride "
                f"{', '.join(map(str, sorted(features.maps)))}, choose one of them, or 0 for the deepest"
            )
        x = ConvBN(channels, dtype=self.dtype, use_bias=True, name="aux_conv")(features.maps[stride], train=train)
        x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
        return classifier(self.num_classes, "aux_classifier")(x)
