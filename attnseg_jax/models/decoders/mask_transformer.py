"""Mask transformer (Strudel et al. 2021, arXiv:2105.05633; github.com/rstrudel/segmenter): classes meet patches."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.errors import check_least, check_rate
from attnseg_jax.models.features import Features, Output, numbered
from attnseg_jax.models.layers.attention import MultiHeadAttention, head_width
from attnseg_jax.models.layers.conv import Dtype, layer_norm
from attnseg_jax.models.records import DotProductMap

_EPSILON = 1e-5


class MaskTransformer(nn.Module):
    """Logits as products of patch and class tokens, after transformer layers over both, O(layers (h w + k)^2 c).

    Attributes:
      num_classes: number of class tokens.
      channels: of all tokens; 0 keeps the map's.
      layers: number of transformer layers (norm first).
      heads: number of heads.
      mlp_ratio: hidden width of a layer's MLP, in channels.
      dropout: rate after attention and in the MLP, in training; weights are not dropped, for memory's sake.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax, normalisation and logits are float32.
      impl_key: what an error calls `impl`.
    """

    num_classes: int
    channels: int = 0
    layers: int = 2
    heads: int = 2
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    impl_key: str = "impl"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w k"], tuple[DotProductMap, ...]]:
        """Returns float32 logits and, for each layer, how the class tokens attend to the patches.

        The weights of a class are those it gives to patches, without its share for other classes: they sum to 1.
        """
        b, h, w, c = x.shape
        c = self.channels or c
        patches = h * w

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(features, dtype=self.dtype, name=name)

        def drop(y: Array) -> Array:
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        def norm(name: str, y: Array) -> Array:
            return layer_norm(name, _EPSILON)(y).astype(self.dtype)

        classes = self.param(
            "class_tokens", nn.initializers.truncated_normal(0.02), (1, self.num_classes, c), jnp.float32
        )
        classes = jnp.broadcast_to(classes.astype(self.dtype), (b, self.num_classes, c))
        tokens = jnp.concatenate([dense(c, "proj_dec")(x.reshape(b, patches, -1)), classes], axis=1)
        maps = []
        for i in range(self.layers):
            y = norm(f"norm1_{i}", tokens)
            attend = MultiHeadAttention(
                self.heads, impl=self.impl, dtype=self.dtype, impl_key=self.impl_key, name=f"attention{i}"
            )
            y, record = attend(y, y)
            maps.append(DotProductMap(record.q[:, patches:], record.k[:, :patches], key_size=(h, w)))
            tokens = tokens + drop(y)
            y = dense(int(c * self.mlp_ratio), f"mlp1_{i}")(norm(f"norm2_{i}", tokens))
            y = dense(c, f"mlp2_{i}")(drop(nn.gelu(y, approximate=False)))
            tokens = tokens + drop(y)
        tokens = norm("decoder_norm", tokens)

        def directions(y: Array, name: str) -> Array:
            kernel = self.param(name, nn.initializers.normal(c**-0.5), (c, c), jnp.float32)
            y = (y @ kernel.astype(self.dtype)).astype(jnp.float32)
            # A bound, since tokens of zeros have no direction.
            return y * lax.rsqrt(jnp.maximum(jnp.square(y).sum(axis=-1, keepdims=True), 1e-12))

        masks = jnp.einsum(
            "bnc,bkc->bnk",
            directions(tokens[:, :patches], "proj_patch"),
            directions(tokens[:, patches:], "proj_classes"),
        )
        return layer_norm("mask_norm", _EPSILON)(masks).reshape(b, h, w, self.num_classes), tuple(maps)


class MaskTransformerDecoder(nn.Module):
    """Class tokens attend with the patches of the deepest map; products of both are the logits, O((h w + k)^2 c).

    Strudel et al. 2021, arXiv:2105.05633 (github.com/rstrudel/segmenter). It gates no skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of all tokens; 0 keeps the map's.
      layers: number of transformer layers.
      heads: number of heads.
      mlp_ratio: hidden width of a layer's MLP, in channels.
      dropout: rate after attention and in the MLP, in training; weights are not dropped, for memory's sake.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax, normalisation and logits are float32.
    """

    num_classes: int
    channels: int = 0
    layers: int = 2
    heads: int = 2
    mlp_ratio: float = 4.0
    dropout: float = 0.1
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the deepest map; `attention['mask_transformer0']` is what classes attend to.

        Raises:
          UserError: heads that do not divide the channels, a MLP without hidden channels, another option out of
            its range.
        """
        x = features.deepest
        path, channels = "config.model.decoder.mask_transformer", self.channels or x.shape[-1]
        check_least(path, 0, channels=self.channels)
        check_least(path, 1, layers=self.layers)
        check_rate(path, dropout=self.dropout)
        head_width(channels, self.heads, key=f"{path}.heads")
        check_least(path, 1 / channels, mlp_ratio=self.mlp_ratio)
        transformer = MaskTransformer(
            self.num_classes,
            self.channels,
            self.layers,
            self.heads,
            self.mlp_ratio,
            self.dropout,
            self.impl,
            self.dtype,
            f"{path}.impl",
            name="transformer",
        )
        logits, maps = transformer(x, train=train)
        attention: dict = {}
        for record in maps:
            attention = numbered(attention, {"mask_transformer": record})
        return Output(logits, attention=attention)
