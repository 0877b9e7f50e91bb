"""Mix Transformer, SegFormer's encoder (Xie et al. 2021, arXiv:2105.15203), after transformers' SegFormer."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.attention import reduced_multi_head
from attnseg_jax.models.layers.conv import Conv, Dtype, layer_norm
from attnseg_jax.models.layers.residual import conv_mlp, drop_path, drop_path_rates
from attnseg_jax.models.options import option

# As transformers 5 computes; NVlabs' code has 1e-6 in the blocks and after the stages.
_EPSILON = 1e-5
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)


class MixBlock(nn.Module):
    """`x + attend(norm(x))`, then `x + mix(norm(x))`, an MLP with a depthwise 3x3 convolution inside.

    Attributes:
      heads: number of heads, a divisor of the channels.
      reduction: keys and values are taken from a map with one position for this many rows and columns.
      drop_path: rate at which a branch is dropped, in training.
    """

    heads: int
    reduction: int
    drop_path: float = 0.0
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the map after attention and MLP."""
        c = x.shape[-1]
        y = layer_norm("norm1", _EPSILON)(x).astype(self.dtype)
        y, _ = reduced_multi_head(y, heads=self.heads, reduction=self.reduction, impl=self.impl, dtype=self.dtype)
        x = x + drop_path(y, self.drop_path, train=train)
        y = layer_norm("norm2", _EPSILON)(x).astype(self.dtype)
        y = conv_mlp(y, 4 * c, dtype=self.dtype)
        return x + drop_path(y, self.drop_path, train=train)


class MiT(Backbone):
    """Four stages of overlapping patches and blocks of reduced attention; maps at the strides 4, 8, 16 and 32.

    A map is its stage's output after the stage's normalisation, as SegFormer's decoder takes it. There are no position
    tables: images have any size from 29x29 on. github.com/NVlabs/SegFormer.

    A subclass names the blocks of its four stages (`depths`) and their channels (`widths`).

    Attributes:
      drop_path: rate at which the last block's branches are dropped in training, growing from 0 in the first (0.1 in
        the paper).
    """

    depths: ClassVar[tuple[int, ...]]
    widths: ClassVar[tuple[int, ...]] = (64, 128, 320, 512)
    layouts = ("transformers_segformer", "nvlabs_segformer")
    # The first map of a smaller image has fewer rows or columns than the first reduction takes together.
    least_size = 29

    drop_path: float = option(0.0, at_least=0, below=1)
    impl: str = "auto"

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        self.check_size(image)
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        x, maps = image, {}
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths)):
            kernel, stride = (3, 2) if stage else (7, 4)
            x = Conv(width, kernel, stride, use_bias=True, dtype=self.dtype, name=f"patch_embed{stage}")(x)
            x = layer_norm(f"patch_norm{stage}", _EPSILON)(x).astype(self.dtype)
            for i in range(depth):
                block = MixBlock(
                    _HEADS[stage], _REDUCTIONS[stage], next(rates), self.impl, self.dtype, name=f"block{stage}_{i}"
                )
                x = block(x, train=train)
            x = layer_norm(f"norm{stage}", _EPSILON)(x).astype(self.dtype)
            maps[4 * 2**stage] = x
        return Features(maps)


MiTB0 = variant(MiT, "MiTB0", depths=(2, 2, 2, 2), widths=(32, 64, 160, 256))
MiTB1 = variant(MiT, "MiTB1", depths=(2, 2, 2, 2))
MiTB2 = variant(MiT, "MiTB2", depths=(3, 4, 6, 3))
MiTB3 = variant(MiT, "MiTB3", depths=(3, 4, 18, 3))
MiTB4 = variant(MiT, "MiTB4", depths=(3, 8, 27, 3))
MiTB5 = variant(MiT, "MiTB5", depths=(3, 6, 40, 3))
