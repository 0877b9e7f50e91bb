"""MSCAN, SegNeXt's encoder (Guo et al. 2022, arXiv:2209.08575), after mmsegmentation's `backbones/mscan.py`."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import BatchNorm, ConvBN, Dtype, layer_norm
from attnseg_jax.models.layers.conv_attention import ConvAttention
from attnseg_jax.models.layers.residual import conv_mlp, drop_path, drop_path_rates, scale_channels
from attnseg_jax.models.options import option
from attnseg_jax.ops.gelu import gelu


class MSCABlock(nn.Module):
    """`x + scale * attend(bn(x))`, then `x + scale * mlp(bn(x))`, with convolutional attention.

    Attributes:
      mlp_ratio: hidden width of the MLP, in channels.
      layer_scale: what the factors of both branches start at.
      drop_path: rate at which a branch is dropped, in training.
    """

    mlp_ratio: int
    layer_scale: float = 1e-2
    drop_path: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the map after attention and MLP."""
        y = BatchNorm(dtype=self.dtype, name="norm1")(x, train=train)
        y = ConvAttention(dtype=self.dtype, name="attention")(y)
        x = x + self._branch("layer_scale1", y, train)
        y = BatchNorm(dtype=self.dtype, name="norm2")(x, train=train)
        y = conv_mlp(y, self.mlp_ratio * x.shape[-1], self.dtype)
        return x + self._branch("layer_scale2", y, train)

    def _branch(self, name: str, y: Array, train: bool) -> Array:
        return drop_path(scale_channels(self, name, y, self.layer_scale), self.drop_path, train=train)


class MSCAN(Backbone):
    """Four stages of convolutional attention; maps at the strides 4, 8, 16 and 32, of images of any size.

    A map is its stage's output after the stage's layer normalisation, which is what the next stage gets too.
    github.com/Visual-Attention-Network/SegNeXt.

    A subclass names the blocks of its four stages (`depths`), their channels (`widths`) and the widths of their MLPs.

    Attributes:
      layer_scale: what the factors of every branch start at.
      drop_path: rate at which the last block's branches are dropped in training, growing from 0 in the first (0.1 in
        the paper, 0.3 in `mscan_l`).
      norm_epsilon: added to the variance in the normalisation of the maps: 1e-5 as in mmsegmentation, 1e-6 in the
        authors' code.
    """

    depths: ClassVar[tuple[int, ...]]
    widths: ClassVar[tuple[int, ...]] = (64, 128, 320, 512)
    mlp_ratios: ClassVar[tuple[int, ...]] = (8, 8, 4, 4)
    layouts = ("mmseg_mscan",)

    layer_scale: float = option(1e-2, at_least=0)
    drop_path: float = option(0.0, at_least=0, below=1)
    norm_epsilon: float = option(1e-5, at_least=0, at_most=1)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        x, maps = image, {}
        for stage, (depth, width, ratio) in enumerate(zip(self.depths, self.widths, self.mlp_ratios), 1):
            if stage == 1:
                x = gelu(self._down("stem1", width // 2, x, train))
            x = self._down("stem2" if stage == 1 else f"down{stage}", width, x, train)
            for i in range(depth):
                block = MSCABlock(ratio, self.layer_scale, next(rates), self.dtype, name=f"block{stage}_{i}")
                x = block(x, train=train)
            x = layer_norm(f"norm{stage}", self.norm_epsilon)(x).astype(self.dtype)
            maps[2 * 2**stage] = x
        return Features(maps)

    def _down(self, name: str, width: int, x: Array, train: bool) -> Array:
        return ConvBN(width, stride=2, use_bias=True, activation=None, dtype=self.dtype, name=name)(x, train=train)


MSCANT = variant(MSCAN, "MSCANT", depths=(3, 3, 5, 2), widths=(32, 64, 160, 256))
MSCANS = variant(MSCAN, "MSCANS", depths=(2, 2, 4, 2))
MSCANB = variant(MSCAN, "MSCANB", depths=(3, 3, 12, 3))
MSCANL = variant(MSCAN, "MSCANL", depths=(3, 5, 27, 3))
