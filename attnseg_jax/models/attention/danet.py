"""Dual attention (Fu et al. 2019, arXiv:1809.02983), after github.com/junfu1115/DANet."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import check_least, check_rate
from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype, classifier, torch_default_init
from attnseg_jax.models.records import AttentionMap, DotProductMap
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention.danet import channel_attention, channel_weights

_KEY = "config.model.attention.danet"


class PositionAttention(nn.Module):
    """`x + gamma * attend(query, key, value)` over all positions, unscaled; `gamma` starts at 0.

    Attributes:
      reduction: queries and keys have the map's channels divided by this, at least one.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; the softmax is float32.
    """

    reduction: int = 8
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], DotProductMap]:
        """Returns the result and who attends to what."""
        b, h, w, c = x.shape

        def project(channels, name):
            conv = Conv(channels, 1, use_bias=True, dtype=self.dtype, kernel_init=torch_default_init, name=name)
            return conv(x).reshape(b, h * w, 1, channels)

        width = max(c // self.reduction, 1)
        q, k, v = project(width, "query"), project(width, "key"), project(c, "value")
        y = attention_ops.dot_product_attention(q, k, v, scale=1.0, impl=self.impl).reshape(x.shape)
        gamma = self.param("gamma", nn.initializers.zeros, (1,), jnp.float32)
        record = DotProductMap(q, k, scale=1.0, query_size=(h, w), key_size=(h, w))
        return x + gamma.astype(self.dtype).reshape(1, 1, 1, 1) * y, record


class ChannelAttention(nn.Module):
    """`x + gamma * channel_attention(x)`; `gamma` starts at 0.

    Attributes:
      dtype: compute type; the softmax and the products before it are float32.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], AttentionMap]:
        """Returns the result and which channel attends to which."""
        weights = channel_weights(x)
        gamma = self.param("gamma", nn.initializers.zeros, (1,), jnp.float32)
        y = channel_attention(x, weights)
        return x + gamma.astype(self.dtype).reshape(1, 1, 1, 1) * y, AttentionMap(weights[:, None])


class DANet(Attention):
    """Position attention plus channel attention, each between 3x3 convolutions, with an auxiliary classifier each.

    Positions take O(n^2 c) time, channels O(n c^2). Fu et al. 2019 (arXiv:1809.02983); github.com/junfu1115/DANet. The
    original's head ends in a 1x1 classifier of the sum: `config.model.decoder.fcn.convs=0`.

    Attributes:
      num_classes: channels of the auxiliary logits.
      channels: of both branches; 0 keeps the map's up to 512, as the original does for a ResNet-50.
      reduction: queries and keys of the position attention have `channels` divided by this.
      dropout: rate at which whole channels are dropped before the auxiliary classifiers, in training.
      impl: how position attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    num_classes: int
    channels: int = 0
    reduction: int = 8
    dropout: float = 0.1
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over.

        Auxiliary logits go to `aux['danet_position']` and `aux['danet_channel']`, maps to `attention` under the same
        names and a number.

        Raises:
          UserError: a reduction below 1, or another option out of its range.
        """
        check_least(_KEY, 1, reduction=self.reduction)
        check_least(_KEY, 0, channels=self.channels)
        check_rate(_KEY, dropout=self.dropout)
        deepest = features.deepest
        channels = lead_width(self.channels, deepest)
        branches = {
            "position": PositionAttention(self.reduction, self.impl, self.dtype, name="position"),
            "channel": ChannelAttention(self.dtype, name="channel"),
        }
        outputs = []
        for branch, attend in branches.items():
            x = ConvBN(channels, dtype=self.dtype, name=f"{branch}_in")(deepest, train=train)
            x, record = attend(x)
            x = ConvBN(channels, dtype=self.dtype, name=f"{branch}_out")(x, train=train)
            outputs.append(x)
            dropped = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)(x)
            logits = classifier(self.num_classes, f"{branch}_classifier")(dropped)
            name = f"danet_{branch}"
            features = features.with_attention(name, record).with_aux(name, logits)
        return features.with_deepest(outputs[0] + outputs[1])
