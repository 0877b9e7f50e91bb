"""Dual attention (Fu et al. 2019, arXiv:1809.02983), after github.com/junfu1115/DANet."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Conv, ConvBN, classifier, torch_default_init
from attnseg_jax.models.layers.residual import drop_channels
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, DotProductMap, sow_record
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention.danet import channel_attention, channel_weights


class DANet(Attention):
    """Position attention plus channel attention, each between 3x3 convolutions, with an auxiliary classifier each.

    Positions take O(n^2 c) time, channels O(n c^2). The original's head ends in a 1x1 classifier of the sum: the
    decoder `fcn` with `convs=0`.

    Attributes:
      channels: of both branches; 0 keeps the map's up to 512, as the original does for a ResNet-50.
      reduction: queries and keys of the position attention have `channels` divided by this.
      dropout: rate at which whole channels are dropped before the auxiliary classifiers, in training.
      impl: how position attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
    """

    channels: int = option(0, at_least=0)
    reduction: int = option(8, at_least=1)
    dropout: float = option(0.1, at_least=0, below=1)
    impl: str = "auto"

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over.

        Auxiliary logits go to `aux['danet_position']` and `aux['danet_channel']`; records have the same names.
        """
        deepest = features.deepest
        channels = lead_width(self.channels, deepest)
        outputs = []
        for branch, attend in {"position": self.position, "channel": self.channel}.items():
            x = ConvBN(channels, dtype=self.dtype, name=f"{branch}_in")(deepest, train=train)
            x = ConvBN(channels, dtype=self.dtype, name=f"{branch}_out")(attend(x), train=train)
            outputs.append(x)
            logits = classifier(self.num_classes, f"{branch}_classifier")(drop_channels(x, self.dropout, train=train))
            features = features.with_aux(f"danet_{branch}", logits)
        return features.with_deepest(outputs[0] + outputs[1])

    @nn.compact
    def position(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """`x + gamma * attend(query, key, value)` over all positions, unscaled; `gamma` starts at 0."""
        b, h, w, c = x.shape

        def project(channels: int, name: str) -> Array:
            conv = Conv(channels, 1, use_bias=True, dtype=self.dtype, kernel_init=torch_default_init, name=name)
            return conv(x).reshape(b, h * w, 1, channels)

        width = max(c // self.reduction, 1)
        q, k, v = project(width, "query"), project(width, "key"), project(c, "value")
        sow_record(self, "danet_position", DotProductMap(q, k, scale=1.0, query_size=(h, w), key_size=(h, w)))
        y = attention_ops.dot_product_attention(q, k, v, scale=1.0, impl=self.impl).reshape(x.shape)
        return x + self._gamma("position") * y

    @nn.compact
    def channel(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """`x + gamma * channel_attention(x)`; `gamma` starts at 0."""
        weights = channel_weights(x)
        sow_record(self, "danet_channel", AttentionMap(weights[:, None]))
        return x + self._gamma("channel") * channel_attention(x, weights)

    def _gamma(self, branch: str) -> Array:
        gamma = self.param(f"{branch}_gamma", nn.initializers.zeros, (1,), jnp.float32)
        return gamma.astype(self.dtype).reshape(1, 1, 1, 1)
