"""Object context (Yuan et al. 2020, arXiv:1909.11065), after github.com/openseg-group/openseg.pytorch."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import ConvBN, classifier
from attnseg_jax.models.layers.residual import drop_channels
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, DotProductMap, sow_record
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention.ocr import region_means, region_weights
from attnseg_jax.ops.pool import max_pool
from attnseg_jax.ops.resize import resize
from attnseg_jax.ops.symbolic import any_below


class OCR(Attention):
    """Every position attends to soft regions, the means of the map over what an auxiliary prediction calls a class.

    O(n k c) time. The original's head ends in a 1x1 classifier: the decoder `fcn` with `convs=0`.

    Attributes:
      regions: whose prediction makes the regions: `own`, or an auxiliary prediction that an earlier mechanism leaves,
        such as `danet_position`.
      aux_stride: nominal stride of the map the own prediction is made of; 0 takes the deepest, the original 16.
      channels: of the 3x3 convolution before the regions, and of the result; 0 keeps the map's up to 512, the
        original's.
      key_channels: of queries, keys and values; 0 takes half of `channels`.
      scale: queries are max-pooled by this factor, and their result resized with aligned corners.
      dropout: rate at which whole channels are dropped before the classifiers, in training.
    """

    regions: str = "own"
    aux_stride: int = option(0, at_least=0)
    channels: int = option(0, at_least=0)
    key_channels: int = option(0, at_least=0)
    scale: int = option(1, at_least=1)
    dropout: float = option(0.05, at_least=0, below=1)
    impl: str = "auto"

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over; the own prediction goes to `aux['ocr']`.

        The record `ocr_regions` says what the regions are made of (a class's weights of the positions), `ocr_pixels`
        what the positions take of them.
        """
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
            hint = (
                f"is no auxiliary prediction of an earlier mechanism (there: {there}): put one before ocr, such as "
                "name='danet+ocr', or set regions='own'"
            )
            raise OptionError("regions", self.regions, hint)
        x = ConvBN(channels, dtype=self.dtype, use_bias=True, name="lead_in")(deepest, train=train)
        weights = region_weights(resize(logits, size))
        sow_record(self, "ocr_regions", AttentionMap(weights[:, None], key_size=size))
        return features.with_deepest(self.context(x, region_means(x, weights), channels, train=train))

    @nn.compact
    def context(
        self, x: Float[Array, "b h w c"], regions: Float[Array, "b k c"], channels: int, *, train: bool = False
    ) -> Float[Array, "b h w d"]:
        """A 1x1 convolution, to `channels`, of every position's context and itself: `out([gather(x, regions), x])`."""
        y = jnp.concatenate([self.gather(x, regions, train=train), x], axis=-1)
        y = ConvBN(channels, 1, dtype=self.dtype, use_bias=True, name="out")(y, train=train)
        return drop_channels(y, self.dropout, train=train)

    @nn.compact
    def gather(
        self, x: Float[Array, "b h w c"], regions: Float[Array, "b k c"], *, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Every position attends to the regions: `up(attend(pixel(x), object(regions), down(regions)))`."""
        b, h, w, c = x.shape
        if any_below(self.scale, h, w):
            hint = f"does not fit a map of {h}x{w} positions: choose 1 to {min(h, w)}, or give larger images"
            raise OptionError("scale", self.scale, hint)
        key_channels = self.key_channels or max(c // 2, 1)

        def conv(y: Array, channels: int, name: str) -> Array:
            return ConvBN(channels, 1, dtype=self.dtype, use_bias=True, name=name)(y, train=train)

        if self.scale > 1:
            x = max_pool(x, self.scale)
        size = x.shape[1:3]
        regions = regions[:, :, None]
        query = conv(conv(x, key_channels, "pixel0"), key_channels, "pixel1")
        key = conv(conv(regions, key_channels, "object0"), key_channels, "object1")
        value = conv(regions, key_channels, "down")
        q, k, v = (t.reshape(b, -1, 1, key_channels) for t in (query, key, value))
        sow_record(self, "ocr_pixels", DotProductMap(q, k, query_size=size))
        y = attention_ops.dot_product_attention(q, k, v, impl=self.impl)
        y = conv(y.reshape(b, *size, key_channels), c, "up")
        return resize(y, (h, w), align_corners=True)

    def _predict(self, features: Features, channels: int, train: bool) -> Array:
        stride = self.aux_stride or max(features.maps)
        x = features.at(stride, "aux_stride", self.aux_stride, "choose one of them, or 0 for the deepest")
        x = ConvBN(channels, dtype=self.dtype, use_bias=True, name="aux_conv")(x, train=train)
        return classifier(self.num_classes, "aux_classifier")(drop_channels(x, self.dropout, train=train))
