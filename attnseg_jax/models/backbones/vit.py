"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), after timm's `vision_transformer.py`; DINOv2's."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.backbones.pyramid import STRIDES, SimplePyramid
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.attention import MultiHeadAttention
from attnseg_jax.models.layers.conv import Conv, Dtype, layer_norm
from attnseg_jax.models.layers.residual import drop_path, drop_path_rates, mlp, scale_channels
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize

# Patch -> nominal stride; the others have no maps a decoder asks for.
_STRIDES = {8: 8, 14: 16, 16: 16}


class Block(nn.Module):
    """`x + attend(norm(x))`, then `x + mlp(norm(x))` over tokens (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Attributes:
      heads: number of heads, a divisor of the channels.
      mlp_ratio: hidden width of the MLP, in channels.
      layer_scale: what the factors of both branches start at; 0 leaves them out.
      drop_path: rate at which a branch is dropped, in training.
      norm_epsilon: added to the variance in layer normalisation.
    """

    heads: int
    mlp_ratio: float = 4.0
    layer_scale: float = 0.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool = False) -> Float[Array, "b n c"]:
        """Returns the tokens after attention and MLP."""
        y = layer_norm("norm1", self.norm_epsilon)(x).astype(self.dtype)
        attend = MultiHeadAttention(self.heads, impl=self.impl, dtype=self.dtype, name="attention")
        x = x + self._branch("layer_scale1", attend(y, y), train)
        y = layer_norm("norm2", self.norm_epsilon)(x).astype(self.dtype)
        y = mlp(y, int(x.shape[-1] * self.mlp_ratio), self.dtype)
        return x + self._branch("layer_scale2", y, train)

    def _branch(self, name: str, y: Array, train: bool) -> Array:
        y = scale_channels(self, name, y, self.layer_scale) if self.layer_scale else y
        return drop_path(y, self.drop_path, train=train)


class ViT(Backbone):
    """Blocks of self-attention over the patches and a class token; one map, or with `pyramid` four.

    The map is that of the patches after the last normalisation; `extras["class_token"]` is the class token's `[b, c]`
    there. An image that the patches do not divide is padded with zeros at the bottom and right, as Segmenter does:
    `Features.padded_size`. The map's nominal stride is 16 for patches of 14 pixels, too. O(n^2 c) in the patches.

    A subclass names the channels (`width`), blocks (`depth`) and attention heads (`heads`).

    Attributes:
      patch_size: pixels on a side of a patch: 8, 14 (DINOv2) or 16.
      position_size: height and width in patches of the position table; it is resampled for any other size.
      position_resize: how: `bicubic`, or `bilinear` as Segmenter does.
      position_antialias: whether shrinking the table averages, as timm does; transformers and Segmenter do not.
      layer_scale: what the factors of every branch start at, 1e-5 for DINOv2; 0 leaves them out.
      pyramid: maps at the strides 4, 8, 16 and 32 by ViTDet's simple feature pyramid, which no published weights fill.
      pyramid_channels: of these maps.
      drop_path: rate at which the last block's branches are dropped in training, growing from 0 in the first.
      norm_epsilon: added to the variance in layer normalisation: 1e-6 in timm and DINOv2, 1e-5 in Segmenter.
      outputs: numbers of the blocks, from 0, whose patches and class token are handed on as they are, in
        `extras["outputs"]`, for the decoder `dpt`.
    """

    width: ClassVar[int]
    depth: ClassVar[int]
    heads: ClassVar[int]
    layouts = ("timm_vit", "transformers_vit", "transformers_dinov2")

    patch_size: int = option(16, choices=tuple(_STRIDES))
    position_size: tuple[int, int] = option((14, 14), at_least=1, at_most=1024, lengths=(2,))
    position_resize: str = option("bicubic", choices=("bicubic", "bilinear"))
    position_antialias: bool = True
    layer_scale: float = option(0.0, at_least=0)
    pyramid: bool = False
    pyramid_channels: int = option(256, at_least=1)
    drop_path: float = option(0.0, at_least=0, below=1)
    norm_epsilon: float = option(1e-6, at_least=0, at_most=1)
    impl: str = "auto"
    outputs: tuple[int, ...] = option((), at_least=0, at_most=1000)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        p, c = self.patch_size, self.width
        b, h, w, _ = image.shape
        padded_size = (-(-h // p) * p, -(-w // p) * p)
        image = jnp.pad(image, [(0, 0), (0, padded_size[0] - h), (0, padded_size[1] - w), (0, 0)])
        x = Conv(c, p, p, padding=0, use_bias=True, dtype=self.dtype, name="patch_embed")(image)
        grid = x.shape[1:3]
        init = nn.initializers.truncated_normal(0.02)
        token = self.param("class_token", init, (1, 1, c), jnp.float32)
        tokens = jnp.concatenate([jnp.broadcast_to(token.astype(self.dtype), (b, 1, c)), x.reshape(b, -1, c)], axis=1)
        rows, columns = self.position_size
        table = self.param("positions", init, (1, 1 + rows * columns, c), jnp.float32)
        tokens = tokens + self._positions(table, grid).astype(self.dtype)
        if any(i >= self.depth for i in self.outputs):
            raise OptionError("outputs", self.outputs, f"must name blocks from 0 to {self.depth - 1}")
        outputs = {}
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            block = Block(
                self.heads,
                layer_scale=self.layer_scale,
                drop_path=rate,
                norm_epsilon=self.norm_epsilon,
                impl=self.impl,
                dtype=self.dtype,
                name=f"block{i}",
            )
            tokens = block(tokens, train=train)
            if i in self.outputs:
                outputs[i] = tokens[:, 1:].reshape(b, *grid, c), tokens[:, 0]
        tokens = layer_norm("norm", self.norm_epsilon)(tokens).astype(self.dtype)
        x = tokens[:, 1:].reshape(b, *grid, c)
        stride = _STRIDES[p]
        maps, hint = {stride: x}, f"pyramid=True for {', '.join(map(str, STRIDES))}"
        if self.pyramid:
            hint = ""
            maps = SimplePyramid(stride, self.pyramid_channels, self.dtype, name="pyramid")(x)
        extras = {"class_token": tokens[:, 0]}
        if outputs:
            extras["outputs"] = tuple(outputs[i] for i in self.outputs)
        return Features(maps, extras, padded_size=None if padded_size == (h, w) else padded_size, hint=hint)

    def _positions(self, table: Array, grid: tuple[int, int]) -> Array:
        """The table for this many rows and columns of patches; the class token's row stays as it is."""
        if grid == tuple(self.position_size):
            return table
        patches = table[:, 1:].reshape(1, *self.position_size, -1)
        patches = resize(patches, grid, self.position_resize, antialias=self.position_antialias)
        return jnp.concatenate([table[:, :1], patches.reshape(1, -1, table.shape[-1])], axis=1)


ViTTi = variant(ViT, "ViTTi", width=192, depth=12, heads=3)
ViTS = variant(ViT, "ViTS", width=384, depth=12, heads=6)
ViTB = variant(ViT, "ViTB", width=768, depth=12, heads=12)
ViTL = variant(ViT, "ViTL", width=1024, depth=24, heads=16)
