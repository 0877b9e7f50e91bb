"""Masked attention (Cheng et al. 2022, arXiv:2112.01527; github.com/facebookresearch/Mask2Former), pixel by pixel."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float

from attnseg_jax.models.decoders.base import Decoder, Gate, maps_of, sum_down
from attnseg_jax.models.features import Features, Output, Queries
from attnseg_jax.models.layers.attention import MultiHeadAttention, sincos_positions
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dense, Dtype, layer_norm
from attnseg_jax.models.layers.residual import mlp_width
from attnseg_jax.models.options import option
from attnseg_jax.ops.mask_classification import semantic_logits
from attnseg_jax.ops.resize import resize

_MAX_CHANNELS = 256
EPSILON = 1e-5


def relu_mlp(x: Float[Array, "b n c"], hidden: int, dtype: Dtype) -> Float[Array, "b n c"]:
    """Two linear layers around a ReLU, `mlp1` and `mlp2` of the module it is called in."""
    y = nn.relu(Dense(hidden, dtype=dtype, name="mlp1")(x))
    return Dense(x.shape[-1], dtype=dtype, name="mlp2")(y)


class MaskedAttentionLayer(nn.Module):
    """Queries attend to the pixels of their mask, then to one another, then an MLP; norms after each sum.

    Attributes:
      heads: number of heads.
      hidden: hidden width of the MLP.
      pre_norm: normalises what goes into each of the three instead.
    """

    heads: int
    hidden: int
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    pre_norm: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q c"],
        memory: Float[Array, "b m c"],
        mask: Bool[Array, "b #a q m"],
        *,
        query_positions: Float[Array, "#b q c"],
        positions: Float[Array, "#b m c"],
        size: tuple[int, int],
    ) -> Float[Array, "b q c"]:
        """Returns the queries; `mask` is True where a query may attend to a pixel of the map of `size`.

        What they attend to is recorded as `masked_attention`.
        """

        def attend(name: str, record: str = "") -> MultiHeadAttention:
            return MultiHeadAttention(self.heads, impl=self.impl, dtype=self.dtype, record=record, name=name)

        def to_pixels(x: Array) -> Array:
            cross = attend("cross_attention", "masked_attention")
            return cross(x + query_positions, memory + positions, memory, mask=mask, key_size=size)

        def to_queries(x: Array) -> Array:
            return attend("self_attention")(x + query_positions, x + query_positions, x)

        def through_mlp(x: Array) -> Array:
            return relu_mlp(x, self.hidden, self.dtype)

        for name, branch in (("cross", to_pixels), ("self", to_queries), ("mlp", through_mlp)):
            norm = layer_norm(f"{name}_norm", EPSILON)
            x = x + branch(norm(x)) if self.pre_norm else norm(x + branch(x))
        return x


class MaskedAttentionDecoder(Decoder):
    """Queries with a class and a mask each, which attend to where their previous mask is open, O(layers q h w c).

    Trained on pixels, or on matched segments as the original: the logits are the logarithm of the semantic scores (see
    `ops.mask_classification.semantic_logits`). Maps are fused from coarse to fine by 1x1 convolutions; layers attend to
    all but the finest in turn, coarse ones first, and masks have the size of the finest. It gates no skips.

    Attributes:
      channels: of queries and fused maps (256 in the original); 0 keeps the deepest map's, but takes at most 256.
      queries: number of queries.
      layers: number of layers (9 in the original).
      heads: number of heads.
      mlp_ratio: hidden width of a layer's MLP, in channels.
      strides: nominal strides of the maps to use; () takes all from 4 on.
      deep_supervision: trains the prediction before each layer too.
      pre_norm: normalises before attention and MLP instead of after each sum.
    """

    exclusive: ClassVar[bool] = True
    log_scores: ClassVar[bool] = True
    channels: int = option(0, at_least=0)
    queries: int = option(100, at_least=1, at_most=4096)
    layers: int = option(3, at_least=1, at_most=100)
    heads: int = option(8, at_least=1)
    mlp_ratio: float = option(8.0, at_least=0, at_most=1000)
    strides: tuple[int, ...] = ()
    deep_supervision: bool = True
    pre_norm: bool = False
    impl: str = "auto"

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used, and queries; both of every layer too."""
        c = self.channels or min(features.deepest.shape[-1], _MAX_CHANNELS)
        pyramid = self._pyramid(features, c, train)
        pixels = ConvBN(c, dtype=self.dtype, name="smooth")(pyramid[-1], train=train)
        pixels = Conv(c, 1, use_bias=True, dtype=self.dtype, name="pixels")(pixels)
        pyramid = pyramid[:-1] or pyramid
        heads = query_heads(self.num_classes, (c, c, c), self.dtype)

        def predict(x: Array) -> tuple[Array, Array]:
            classes, y = heads(x)
            return classes, jnp.einsum("bhwc,bqc->bhwq", pixels, y, preferred_element_type=jnp.float32)

        def table(name: str, count: int) -> Array:
            return self.param(name, nn.initializers.normal(1.0), (1, count, c), jnp.float32)

        queries, query_positions = table("query_tokens", self.queries), table("query_positions", self.queries)
        levels = table("level_tokens", len(pyramid))
        x = jnp.broadcast_to(queries, (pixels.shape[0], *queries.shape[1:]))
        *earlier, last = refined(self, x, pyramid, levels, query_positions, sincos_positions, predict)
        aux, aux_queries = {}, {}
        for i, found in enumerate(earlier if self.deep_supervision else ()):
            aux[f"masked_attention{i}"] = semantic_logits(*found)
            aux_queries[f"masked_attention{i}"] = _queries(*found)
        return Output(semantic_logits(*last), aux, queries=_queries(*last), aux_queries=aux_queries)

    def _pyramid(self, features: Features, c: int, train: bool) -> list[Array]:
        """Maps of `c` channels, coarse to fine, each with what the coarser ones hold."""
        maps = chosen_maps(features, self.strides)
        laterals = [
            ConvBN(c, 1, activation=None, dtype=self.dtype, name=f"lateral{stride}")(x, train=train)
            for stride, x in maps.items()
        ]
        return sum_down(laterals)[::-1]


def chosen_maps(features: Features, strides: tuple[int, ...]) -> dict[int, Array]:
    """The maps of an option `strides`, fine to coarse; of () all from stride 4 on, or all where there are none."""
    strides = strides or tuple(stride for stride in features.maps if stride >= 4) or tuple(features.maps)
    return maps_of(features, strides, "strides", "choose strides among them, or () for all from 4 on")


def query_heads(
    num_classes: int, widths: Sequence[int], dtype: Dtype
) -> Callable[[Float[Array, "b q c"]], tuple[Array, Array]]:
    """What the predictions of all layers share: queries -> class logits `[b, q, k + 1]`, and what makes their masks.

    The latter is an MLP of three layers, of these widths; called in a module.
    """
    norm = layer_norm("norm", EPSILON)
    classes = Dense(num_classes + 1, dtype=jnp.float32, name="classes")
    layers = [Dense(width, dtype=dtype, name=f"mask{i}") for i, width in enumerate(widths)]

    def heads(x: Array) -> tuple[Array, Array]:
        x = norm(x)
        return classes(x), layers[2](nn.relu(layers[1](nn.relu(layers[0](x)))))

    return heads


def refined(
    decoder: Any,
    x: Float[Array, "b q c"],
    pyramid: Sequence[Float[Array, "b _h _w c"]],
    levels: Float[Array, "1 l c"],
    query_positions: Float[Array, "1 q c"],
    positions: Callable[[int, int, int], Array],
    predict: Callable[[Array], tuple[Array, Array]],
) -> list[tuple[Array, Array]]:
    """What the queries predict before each layer of masked attention and after the last; called in the decoder.

    Args:
      decoder: has the fields `layers`, `heads`, `mlp_ratio`, `impl`, `dtype` and `pre_norm`.
      x: the queries.
      pyramid: the maps that they attend to in turn.
      levels: what is added to each map.
      query_positions: of the queries.
      positions: height, width and channels of a map -> those of its pixels.
      predict: queries -> class logits and mask logits `[b, h, w, q]`.
    """
    c = x.shape[-1]
    hidden = mlp_width(c, decoder.mlp_ratio)
    predictions = [predict(x)]
    for i in range(decoder.layers):
        level = i % len(pyramid)
        b, h, w, _ = pyramid[level].shape
        layer = MaskedAttentionLayer(
            decoder.heads, hidden, decoder.impl, decoder.dtype, decoder.pre_norm, name=f"layer{i}"
        )
        x = layer(
            x,
            pyramid[level].reshape(b, h * w, c) + levels[:, level : level + 1].astype(decoder.dtype),
            open_pixels(predictions[-1][1], (h, w)),
            query_positions=query_positions,
            positions=jnp.asarray(positions(h, w, c).reshape(1, h * w, c), decoder.dtype),
            size=(h, w),
        )
        predictions.append(predict(x))
    return predictions


def _queries(class_logits: Array, mask_logits: Float[Array, "b h w q"]) -> Queries:
    return Queries(class_logits, jnp.moveaxis(mask_logits, 3, 1))


def open_pixels(mask_logits: Float[Array, "b h w q"], size: tuple[int, int]) -> Bool[Array, "b 1 q m"]:
    """Where each query may attend on a map of `size`: its mask is at least one half there, or it is nowhere so."""
    mask = resize(lax.stop_gradient(mask_logits), size) >= 0
    mask = jnp.moveaxis(mask.reshape(mask.shape[0], -1, mask.shape[-1]), 2, 1)[:, None]
    return mask | ~mask.any(axis=-1, keepdims=True)
