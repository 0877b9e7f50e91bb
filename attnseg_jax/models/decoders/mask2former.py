"""Mask2Former (Cheng et al. 2022, arXiv:2112.01527), after transformers' `modeling_mask2former.py`."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.decoders.masked_attention import EPSILON, chosen_maps, query_heads, refined, relu_mlp
from attnseg_jax.models.features import Features, Output, Queries
from attnseg_jax.models.layers.attention import sine_positions
from attnseg_jax.models.layers.blocks import ConvGroupNorm
from attnseg_jax.models.layers.conv import Conv, Dtype, layer_norm
from attnseg_jax.models.layers.deformable import DeformableAttention, centres
from attnseg_jax.models.layers.residual import mlp_width
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class DeformableLayer(nn.Module):
    """Positions of several maps look at points of all of them, then an MLP; norms after each sum.

    Attributes:
      heads: number of heads.
      points: of each head on each map.
      hidden: hidden width of the MLP.
    """

    heads: int
    points: int
    hidden: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], positions: Float[Array, "1 n c"], sizes: tuple[tuple[int, int], ...]
    ) -> Float[Array, "b n c"]:
        """Returns the tokens of all positions of maps of these sizes."""
        attention = DeformableAttention(self.heads, self.points, self.dtype, name="attention")
        x = layer_norm("attention_norm", EPSILON)(x + attention(x + positions, x, centres(sizes), sizes))
        return layer_norm("mlp_norm", EPSILON)(x + relu_mlp(x, self.hidden, self.dtype))


class PixelDecoder(nn.Module):
    """Maps that have seen one another through deformable attention, and a fine map to compare queries with.

    Attributes:
      channels: of the maps.
      mask_channels: of the fine map.
      layers: of deformable attention.
      heads: number of heads.
      points: of each head on each map.
      hidden: hidden width of a layer's MLP.
      groups: of the group normalisations.
    """

    channels: int
    mask_channels: int
    layers: int
    heads: int
    points: int
    hidden: int
    groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, maps: dict[int, Float[Array, "b _y _x _c"]]
    ) -> tuple[list[Float[Array, "b _i _j c"]], Float[Array, "b h w d"]]:
        """Returns all maps but the finest (of a single one itself), coarse to fine, and the fine map.

        Args:
          maps: by stride, fine to coarse.
        """
        c = self.channels

        def project(name: str, kernel_size: int = 1, use_bias: bool = False, relu: bool = False) -> ConvGroupNorm:
            return ConvGroupNorm(c, self.groups, self.dtype, kernel_size, use_bias, relu, name=name)

        finest, *strides = maps
        strides = strides[::-1] or [finest]
        inputs = [project(f"input{stride}", use_bias=True)(maps[stride]) for stride in strides]
        sizes = tuple(x.shape[1:3] for x in inputs)
        x = jnp.concatenate([y.reshape(y.shape[0], -1, c) for y in inputs], axis=1)
        levels = self.param("level_tokens", nn.initializers.normal(1.0), (len(sizes), c), jnp.float32)
        positions = jnp.concatenate(
            [sine_positions(h, w, c).reshape(h * w, c) + levels[i : i + 1] for i, (h, w) in enumerate(sizes)]
        )
        for i in range(self.layers):
            layer = DeformableLayer(self.heads, self.points, self.hidden, self.dtype, name=f"layer{i}")
            x = layer(x, positions[None], sizes)
        attended, start = [], 0
        for h, w in sizes:
            attended.append(x[:, start : start + h * w].reshape(x.shape[0], h, w, c).astype(self.dtype))
            start += h * w
        fine = project("lateral")(maps[finest])
        fine = fine + resize(attended[-1], fine.shape[1:3])
        fine = project("smooth", kernel_size=3, relu=True)(fine)
        return attended, Conv(self.mask_channels, 1, use_bias=True, dtype=self.dtype, name="pixels")(fine)


class Mask2Former(Decoder):
    """Queries with a class and a mask each, which attend to where their previous mask is open, scale after scale.

    A pixel decoder of multi-scale deformable attention makes the maps; the layers are those of `masked_attention`, in
    turn over all maps but the finest, coarse ones first; masks have the size of the finest. O(layers q n c + n c^2).
    Trained on matched segments as the original, or on pixels through the semantic scores. It gates no skips.

    Attributes:
      channels: of queries and maps.
      pixel_channels: of the pixel decoder's maps, where they are others; 0 takes `channels`.
      mask_channels: that queries and pixels are compared in; 0 takes `channels`.
      queries: number of queries (100; 200 in the largest published models).
      layers: of masked attention; the `decoder_layers` of a published config less one.
      heads: number of heads, in both decoders.
      mlp_ratio: hidden width of a layer's MLP, in channels.
      pixel_layers: of deformable attention.
      pixel_mlp_ratio: hidden width of one's MLP, in its channels.
      points: that each head of deformable attention looks at on each map.
      groups: of the pixel decoder's group normalisations, a divisor of its channels.
      strides: nominal strides of the maps to use; () takes all from 4 on.
      deep_supervision: trains the prediction before each layer too.
      pre_norm: normalises before attention and MLP of the queries instead of after each sum.
    """

    exclusive: ClassVar[bool] = True
    log_scores: ClassVar[bool] = True
    channels: int = option(256, at_least=1)
    pixel_channels: int = option(0, at_least=0)
    mask_channels: int = option(0, at_least=0)
    queries: int = option(100, at_least=1, at_most=4096)
    layers: int = option(9, at_least=1, at_most=100)
    heads: int = option(8, at_least=1)
    mlp_ratio: float = option(8.0, at_least=0, at_most=1000)
    pixel_layers: int = option(6, at_least=1, at_most=100)
    pixel_mlp_ratio: float = option(4.0, at_least=0, at_most=1000)
    points: int = option(4, at_least=1, at_most=1024)
    groups: int = option(32, at_least=1)
    strides: tuple[int, ...] = ()
    deep_supervision: bool = True
    pre_norm: bool = False
    impl: str = "auto"

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns queries, also those before each layer; their scores stand for the logits."""
        c = self.channels
        pyramid, pixels = self._pixel_decoder()(chosen_maps(features, self.strides))
        if pyramid[0].shape[-1] != c:
            pyramid = [Conv(c, 1, use_bias=True, dtype=self.dtype, name=f"memory{i}")(x) for i, x in enumerate(pyramid)]
        heads = query_heads(self.num_classes, (c, c, pixels.shape[-1]), self.dtype)

        def predict(x: Array) -> tuple[Array, Array]:
            classes, y = heads(x)
            masks = jnp.einsum("bqc,bhwc->bqhw", y, pixels, preferred_element_type=jnp.float32)
            return classes, jnp.moveaxis(masks, 1, 3)

        def table(name: str, count: int) -> Array:
            return self.param(name, nn.initializers.normal(1.0), (1, count, c), jnp.float32)

        queries, query_positions = table("query_tokens", self.queries), table("query_positions", self.queries)
        levels = self.param("level_tokens", nn.initializers.normal(1.0), (len(pyramid), c), jnp.float32)
        x = jnp.broadcast_to(queries, (pixels.shape[0], *queries.shape[1:]))
        found = refined(self, x, pyramid, levels[None], query_positions, sine_positions, predict)
        *earlier, last = [Queries(classes, jnp.moveaxis(masks, 3, 1)) for classes, masks in found]
        aux = {f"mask2former{i}": queries for i, queries in enumerate(earlier)}
        return Output(None, queries=last, aux_queries=aux if self.deep_supervision else {})

    def _pixel_decoder(self) -> PixelDecoder:
        c = self.pixel_channels or self.channels
        if c % self.groups:
            raise OptionError("groups", self.groups, f"does not divide {c} channels: choose a divisor")
        with_mlp = mlp_width(c, self.pixel_mlp_ratio, "pixel_mlp_ratio")
        return PixelDecoder(
            c, self.mask_channels or self.channels, self.pixel_layers, self.heads, self.points, with_mlp,
            self.groups, self.dtype, name="pixel_decoder",
        )  # fmt: skip
