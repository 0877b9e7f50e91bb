"""Mask transformer (Strudel et al. 2021, arXiv:2105.05633; github.com/rstrudel/segmenter): classes meet patches."""

from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.features import Features, Output, Queries
from attnseg_jax.models.layers.attention import multi_head
from attnseg_jax.models.layers.conv import Dense, Dtype, layer_norm
from attnseg_jax.models.layers.residual import mlp, mlp_width
from attnseg_jax.models.options import option
from attnseg_jax.models.records import DotProductMap, sow_record

_EPSILON = 1e-5


class Layer(nn.Module):
    """`x + attend(norm(x))`, then `x + mlp(norm(x))` over the tokens of patches and, behind them, of classes.

    Attributes:
      heads: number of heads, a divisor of the channels.
      hidden: hidden width of the MLP.
      dropout: rate after attention and in the MLP, in training.
    """

    heads: int
    hidden: int
    dropout: float
    impl: str
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], size: tuple[int, int], *, train: bool) -> Float[Array, "b n c"]:
        """Returns the tokens after attention and MLP; the first are the patches of a map of `size`.

        The weights recorded for a class are those it gives to patches, without its share for classes: they sum to 1.
        """

        def norm(name: str) -> Array:
            return layer_norm(name, _EPSILON)(x).astype(self.dtype)

        def drop(y: Array) -> Array:
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        y = norm("norm1")
        y, record = multi_head(y, y, heads=self.heads, impl=self.impl, dtype=self.dtype)
        patches = size[0] * size[1]
        record = DotProductMap(record.q[:, patches:], record.k[:, :patches], key_size=size)
        sow_record(self, "mask_transformer", record)
        x = x + drop(y)
        return x + drop(mlp(norm("norm2"), self.hidden, self.dtype, dropout=self.dropout, train=train))


class MaskTransformer(Decoder):
    """Class tokens attend with the patches of the deepest map; products of both are the logits, O((h w + k)^2 c).

    With `queries` the tokens stand for no class each, but for anything: they predict a class and a mask, the product
    with the patches divided by the root of the channels, as in MaskFormer (Cheng et al. 2021, arXiv:2107.06278). It
    gates no skips.

    Attributes:
      channels: of all tokens; 0 keeps the map's.
      queries: number of tokens that are matched with segments; 0 has a token for each class instead.
      layers: number of transformer layers.
      heads: number of heads.
      mlp_ratio: hidden width of a layer's MLP, in channels.
      dropout: rate after attention and in the MLP, in training; weights are not dropped, for memory's sake.
    """

    exclusive: ClassVar[bool] = True
    channels: int = option(0, at_least=0)
    queries: int = option(0, at_least=0, at_most=4096)
    layers: int = option(2, at_least=1, at_most=100)
    heads: int = option(2, at_least=1)
    mlp_ratio: float = option(4.0, at_least=0, at_most=1000)
    dropout: float = option(0.1, at_least=0, below=1)
    impl: str = "auto"

    @property
    def log_scores(self) -> bool:
        """As in `Decoder`: with `queries`."""
        return self.queries > 0

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the deepest map, or with `queries` these, of every layer.

        What classes, or queries, attend to is recorded as `mask_transformer`.
        """
        x = features.deepest
        b, h, w, c = x.shape
        c, patches = self.channels or c, h * w
        hidden = mlp_width(c, self.mlp_ratio)
        init = nn.initializers.truncated_normal(0.02)
        name, count = ("query_tokens", self.queries) if self.queries else ("class_tokens", self.num_classes)
        own = self.param(name, init, (1, count, c), jnp.float32)
        own = jnp.broadcast_to(own.astype(self.dtype), (b, count, c))
        tokens = Dense(c, dtype=self.dtype, name="proj_dec")(x.reshape(b, patches, -1))
        tokens = jnp.concatenate([tokens, own], axis=1)
        predict = self._predict_queries((h, w), c) if self.queries else None
        aux_queries = {}
        for i in range(self.layers):
            if predict and i:
                aux_queries[f"mask_transformer{i - 1}"] = predict(tokens)
            layer = Layer(self.heads, hidden, self.dropout, self.impl, self.dtype, name=f"layer{i}")
            tokens = layer(tokens, (h, w), train=train)
        if predict:
            return Output(None, queries=predict(tokens), aux_queries=aux_queries)
        tokens = layer_norm("decoder_norm", _EPSILON)(tokens).astype(self.dtype)
        masks = jnp.einsum(
            "bnc,bkc->bnk",
            _directions(tokens[:, :patches] @ self._projection("proj_patch", c)),
            _directions(tokens[:, patches:] @ self._projection("proj_classes", c)),
        )
        return Output(layer_norm("mask_norm", _EPSILON)(masks).reshape(b, h, w, self.num_classes))

    def _predict_queries(self, size: tuple[int, int], c: int) -> Callable[[Array], Queries]:
        """What all layers share: tokens of patches and queries -> the classes and masks of the queries."""
        norm = layer_norm("decoder_norm", _EPSILON)
        of_patches, of_queries = self._projection("proj_patch", c), self._projection("proj_queries", c)
        classes = Dense(self.num_classes + 1, dtype=jnp.float32, name="classes")
        patches = size[0] * size[1]

        def predict(tokens: Array) -> Queries:
            x = norm(tokens)
            y = x.astype(self.dtype)
            masks = jnp.einsum(
                "bqc,bnc->bqn", y[:, patches:] @ of_queries, y[:, :patches] @ of_patches,
                preferred_element_type=jnp.float32,
            )  # fmt: skip
            return Queries(classes(x[:, patches:]), (masks * c**-0.5).reshape(*masks.shape[:2], *size))

        return predict

    def _projection(self, name: str, c: int) -> Array:
        return self.param(name, nn.initializers.normal(c**-0.5), (c, c), jnp.float32).astype(self.dtype)


def _directions(y: Array) -> Array:
    """Tokens of length 1, float32."""
    y = y.astype(jnp.float32)
    # A bound, since tokens of zeros have no direction.
    return y * lax.rsqrt(jnp.maximum(jnp.square(y).sum(axis=-1, keepdims=True), 1e-12))
