"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), after timm's `vision_transformer.py`; DINOv2's."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.backbones.pyramid import STRIDES, SimplePyramid
from attnseg_jax.models.features import Features, Place
from attnseg_jax.models.layers.conv import Conv, ConvBN, layer_norm
from attnseg_jax.models.layers.residual import drop_path_rates
from attnseg_jax.models.layers.vit import Block
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize

# Patch -> nominal stride; the others have no maps a decoder asks for.
_STRIDES = {4: 4, 8: 8, 14: 16, 16: 16}
_init = nn.initializers.truncated_normal(0.02)


class PlainViT(Backbone):
    """What plain vision transformers share: blocks of self-attention over a class token, registers and the patches.

    The map is that of the patches after the last normalisation; `extras["class_token"]` is the class token's `[b, c]`
    there. An image that the patches do not divide is padded with zeros at the bottom and right, as Segmenter does:
    `Features.padded_size`. The map's nominal stride is 16 for patches of 14 pixels, too. O(n^2 c) in the patches.

    A decoder may visit the blocks (`Decoder.visits`): what it appends to the tokens, behind the patches, comes back as
    `extras["visitors"]`, normalised, and what it noted on its way as `extras["notes"]`.

    A subclass names the channels (`width`), blocks (`depth`) and attention heads (`heads`), and says where positions
    come from.

    Attributes:
      patch_size: pixels on a side of a patch: 4, 8, 14 (DINOv2) or 16.
      stem: how pixels become patches: `patches`, by one convolution without overlap, or `convolutions`, of 4x4 pixels
        with stride 2, which double the channels, each with a batch normalisation and a ReLU, and one of 1x1. After Xiao
        et al. 2021 (arXiv:2106.14881), who have 3x3, for training from scratch; no published weights fill it.
      registers: tokens beside the class token (Darcet et al. 2024, arXiv:2309.16588).
      layer_scale: what the factors of every branch start at, 1e-5 for DINOv2 and DINOv3; 0 leaves them out.
      pyramid: maps at the strides 4, 8, 16 and 32 by ViTDet's simple feature pyramid, which no published weights fill.
      pyramid_channels: of these maps.
      drop_path: rate at which the last block's branches are dropped in training, growing from 0 in the first.
      norm_epsilon: added to the variance in layer normalisation: 1e-6 in timm and DINOv2, 1e-5 in Segmenter and DINOv3.
      outputs: numbers of the blocks, from 0, whose patches and class token are handed on as they are, in
        `extras["outputs"]`, for the decoder `dpt`.
    """

    width: ClassVar[int]
    depth: ClassVar[int]
    heads: ClassVar[int]
    mlp_ratio: ClassVar[float] = 4.0
    gated: ClassVar[bool] = False
    key_bias: ClassVar[bool] = True
    takes_visitors: ClassVar[bool] = True

    patch_size: int = option(16, choices=tuple(_STRIDES))
    stem: str = option("patches", choices=("patches", "convolutions"))
    registers: int = option(0, at_least=0, at_most=1024)
    layer_scale: float = option(0.0, at_least=0)
    pyramid: bool = False
    pyramid_channels: int = option(256, at_least=1)
    drop_path: float = option(0.0, at_least=0, below=1)
    norm_epsilon: float = option(1e-6, at_least=0, at_most=1)
    impl: str = "auto"
    outputs: tuple[int, ...] = option((), at_least=0, at_most=1000)

    @property
    def layer_paths(self) -> tuple[str, ...]:
        """As in `Backbone`."""
        blocks = tuple(f"block{i}/.*" for i in range(self.depth))
        return ("(patch_embed/.*|stem.*|class_token|register_tokens|positions)", *blocks)

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w c"], *, train: bool = False, visit: Callable[..., Any] | None = None
    ) -> Features:
        """Returns the feature maps of `image` (float, normalised); `visit` is `Decoder.visit`, called before blocks."""
        p, c = self.patch_size, self.width
        b, h, w, _ = image.shape
        padded_size = (-(-h // p) * p, -(-w // p) * p)
        image = jnp.pad(image, [(0, 0), (0, padded_size[0] - h), (0, padded_size[1] - w), (0, 0)])
        x = self._patches(image, train)
        grid, first = x.shape[1:3], 1 + self.registers
        tokens = self.embedded(x.reshape(b, -1, c), grid)
        last = first + grid[0] * grid[1]
        norm = layer_norm("norm", self.norm_epsilon)
        tokens, notes, outputs = self._blocks(tokens, Place(first, grid, norm), visit, train)
        tokens = norm(tokens).astype(self.dtype)
        x = tokens[:, first:last].reshape(b, *grid, c)
        extras = {"class_token": tokens[:, 0]}
        if visit is not None:
            extras |= {"visitors": tokens[:, last:], "notes": notes}
        if outputs:
            extras["outputs"] = tuple((x[:, first:last].reshape(b, *grid, c), x[:, 0]) for x in outputs)
        stride = _STRIDES[p]
        maps, hint = {stride: x}, f"pyramid=True for {', '.join(map(str, STRIDES))}"
        if self.pyramid:
            hint = ""
            maps = SimplePyramid(stride, self.pyramid_channels, self.dtype, name="pyramid")(x)
        return Features(maps, extras, padded_size=None if padded_size == (h, w) else padded_size, hint=hint)

    def _patches(self, image: Array, train: bool) -> Array:
        """The map of the patches before the first block."""
        p, c, x = self.patch_size, self.width, image
        if self.stem == "patches":
            return Conv(c, p, p, padding=0, use_bias=True, dtype=self.dtype, name="patch_embed")(x)
        count = p.bit_length() - 1
        if p != 1 << count:
            raise OptionError("stem", self.stem, f"halves the image again and again, and patches have {p} pixels")
        for i in range(count):
            x = ConvBN(c >> (count - 1 - i), 4, 2, 1, dtype=self.dtype, name=f"stem{i}")(x, train=train)
        return Conv(c, 1, use_bias=True, dtype=self.dtype, name="patch_embed")(x)

    def _blocks(self, tokens: Array, place: Place, visit: Callable | None, train: bool) -> tuple[Array, tuple, list]:
        """The tokens after all blocks, what a visitor noted before some, the tokens after each block of `outputs`."""
        if any(i >= self.depth for i in self.outputs):
            raise OptionError("outputs", self.outputs, f"must name blocks from 0 to {self.depth - 1}")
        rotate, notes, outputs = self.rotation(place), [], {}
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            options = {}
            if visit is not None:
                tokens, options, note = visit(tokens, place, left=self.depth - i)
                notes += [] if note is None else [note]
            block = Block(
                self.heads,
                mlp_ratio=self.mlp_ratio,
                gated=self.gated,
                key_bias=self.key_bias,
                layer_scale=self.layer_scale,
                drop_path=rate,
                norm_epsilon=self.norm_epsilon,
                impl=self.impl,
                dtype=self.dtype,
                name=f"block{i}",
            )
            tokens = block(tokens, rotate=rotate, train=train, **options)
            outputs[i] = tokens
        return tokens, tuple(notes), [outputs[i] for i in self.outputs]

    def embedded(self, patches: Float[Array, "b n c"], grid: tuple[int, int]) -> Float[Array, "b m c"]:
        """The tokens that enter the first block: class token, registers, patches with their positions."""
        raise NotImplementedError

    def rotation(self, place: Place) -> Callable[[Array], Array] | None:
        """What turns queries and keys by their positions; None for positions that are added."""
        return None

    def beside(self, batch: int) -> tuple[Float[Array, "b 1 c"], Float[Array, "b r c"]]:
        """The class token and the registers, for every image."""
        c = self.width
        tokens = [self.param("class_token", _init, (1, 1, c), jnp.float32)]
        if self.registers:
            tokens.append(self.param("register_tokens", _init, (1, self.registers, c), jnp.float32))
        else:
            tokens.append(jnp.zeros((1, 0, c)))
        first, others = (jnp.broadcast_to(x.astype(self.dtype), (batch, *x.shape[1:])) for x in tokens)
        return first, others


class ViT(PlainViT):
    """Plain vision transformer whose patches have a table of positions.

    Attributes:
      position_size: height and width in patches of the position table; it is resampled for any other size.
      position_resize: how: `bicubic`, or `bilinear` as Segmenter does.
      position_antialias: whether shrinking the table averages, as timm does; transformers and Segmenter do not.
      class_position: whether the class token has a row of the table too; not so in timm's models with registers, nor
        in EoMT.
    """

    layouts = ("timm_vit", "transformers_vit", "transformers_dinov2", "transformers_eomt")

    position_size: tuple[int, int] = option((14, 14), at_least=1, at_most=1024, lengths=(2,))
    position_resize: str = option("bicubic", choices=("bicubic", "bilinear"))
    position_antialias: bool = True
    class_position: bool = True

    def embedded(self, patches: Float[Array, "b n c"], grid: tuple[int, int]) -> Float[Array, "b m c"]:
        """As in `PlainViT`."""
        b, _, c = patches.shape
        token, registers = self.beside(b)
        rows, columns = self.position_size
        own = int(self.class_position)
        table = self.param("positions", _init, (1, own + rows * columns, c), jnp.float32)
        tokens = jnp.concatenate([token, patches], axis=1) if own else patches
        tokens = tokens + self._positions(table, grid).astype(self.dtype)
        if not own:
            return jnp.concatenate([token, registers, tokens], axis=1)
        return jnp.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)

    def _positions(self, table: Array, grid: tuple[int, int]) -> Array:
        """The table for this many rows and columns of patches; the class token's row stays as it is."""
        if grid == tuple(self.position_size):
            return table
        own = int(self.class_position)
        patches = table[:, own:].reshape(1, *self.position_size, -1)
        patches = resize(patches, grid, self.position_resize, antialias=self.position_antialias)
        return jnp.concatenate([table[:, :own], patches.reshape(1, -1, table.shape[-1])], axis=1)


class DINOv2(ViT):
    """`ViT` with the options of DINOv2's published weights; those with registers have `registers=4`.

    Attributes as in `ViT`.
    """

    patch_size: int = option(14, choices=tuple(_STRIDES))
    position_size: tuple[int, int] = option((37, 37), at_least=1, at_most=1024, lengths=(2,))
    position_antialias: bool = False
    layer_scale: float = option(1e-5, at_least=0)


# Not a published size: for maps of some hundred patches, to be trained from scratch.
ViTXS = variant(ViT, "ViTXS", width=128, depth=4, heads=4)
ViTTi = variant(ViT, "ViTTi", width=192, depth=12, heads=3)
ViTS = variant(ViT, "ViTS", width=384, depth=12, heads=6)
ViTB = variant(ViT, "ViTB", width=768, depth=12, heads=12)
ViTL = variant(ViT, "ViTL", width=1024, depth=24, heads=16)
DINOv2S = variant(DINOv2, "DINOv2S", width=384, depth=12, heads=6)
DINOv2B = variant(DINOv2, "DINOv2B", width=768, depth=12, heads=12)
DINOv2L = variant(DINOv2, "DINOv2L", width=1024, depth=24, heads=16)
