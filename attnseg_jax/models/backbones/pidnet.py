"""PIDNet (Xu et al. 2023, arXiv:2206.02066), after mmsegmentation's `backbones/pidnet.py`."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.backbones.ddrnet import SPATIAL
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.context_pyramid import ContextPyramid, NormConv
from attnseg_jax.models.layers.conv import ConvBN, Dtype
from attnseg_jax.models.layers.dual_blocks import DualBlock, DualLayer, dual_stem
from attnseg_jax.models.records import GateMap, sow_record
from attnseg_jax.ops.resize import resize

EDGES = "edges"
"""In `Features.extras`: a map that knows where classes meet."""


class PixelFusion(nn.Module):
    """`s * coarse + (1 - s) * fine`, `s` the sigmoid of the product of both projections at every pixel.

    Attributes:
      channels: of the projections.
    """

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, fine: Float[Array, "b h w c"], coarse: Float[Array, "b y x c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Returns the fused map; the factors `s` are recorded as `pidnet`."""

        def project(name: str, x: Array) -> Array:
            return ConvBN(self.channels, 1, activation=None, dtype=self.dtype, name=name)(x, train=train)

        size = fine.shape[1:3]
        product = project("fine", fine) * resize(project("coarse", coarse), size)
        share = nn.sigmoid(product.sum(axis=-1, keepdims=True, dtype=jnp.float32))
        sow_record(self, "pidnet", GateMap(share))
        share = share.astype(self.dtype)
        return share * resize(coarse, size) + (1 - share) * fine


class PIDNet(Backbone):
    """Three branches, of details and of boundaries at stride 8 and of context down to stride 64, fused to one map.

    Boundaries say at every pixel how much of the details and of the context counts. The map has stride 8;
    `extras["spatial"]` is the detail branch after its first fusion, and `extras["edges"]` the boundary branch after its
    second one, which the decoder `ddr` may give heads. github.com/XuJiacong/PIDNet. Images of any size; the original
    wants a multiple of 8.

    A subclass names the channels of the stem (`width`), of the context pyramid's branches (`branch_channels`), and the
    blocks of the stem and the detail branch (`fine_blocks`, 2 or 3) and of the context branch (`context_blocks`).
    """

    width: ClassVar[int]
    branch_channels: ClassVar[int]
    fine_blocks: ClassVar[int]
    context_blocks: ClassVar[int]
    layouts = ("mmseg_pidnet",)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature map of `image` (float, normalised)."""
        width, dtype, large = self.width, self.dtype, self.fine_blocks > 2

        def layer(name: str, features: int, blocks: int, x: Array, stride: int = 1, bottleneck: bool = False) -> Array:
            return DualLayer(features, blocks, bottleneck, stride, dtype, name=name)(x, train=train)

        def conv(name: str, features: int, size: int, x: Array, relu: bool = False) -> Array:
            activation = nn.relu if relu else None
            return ConvBN(features, size, activation=activation, dtype=dtype, name=name)(x, train=train)

        def fuse(name: str, fine: Array, coarse: Array) -> Array:
            return PixelFusion(width, dtype, name=name)(fine, coarse, train=train)

        edge_width = 2 * width if large else width
        x = dual_stem(image, width, self.fine_blocks, dtype, train=train)
        context = nn.relu(layer("context1", 4 * width, self.context_blocks, x, 2))
        fine = layer("detail1", 2 * width, self.fine_blocks, x)
        edge = DualBlock(edge_width, dtype=dtype, name="boundary1")(x, train=train)
        size = fine.shape[1:3]
        first = fine = fuse("fuse1", fine, conv("compress1", 2 * width, 1, context))
        edge = edge + resize(conv("difference1", edge_width, 3, context), size)

        context = nn.relu(layer("context2", 8 * width, self.context_blocks, context, 2))
        fine = layer("detail2", 2 * width, self.fine_blocks, nn.relu(fine))
        second = DualBlock(edge_width, bottleneck=not large, dtype=dtype, name="boundary2")
        edge = second(nn.relu(edge), train=train)
        fine = fuse("fuse2", fine, conv("compress2", 2 * width, 1, context))
        boundaries = edge = edge + resize(conv("difference2", 2 * width, 3, context), size)

        fine = layer("detail3", 2 * width, 1, nn.relu(fine), bottleneck=True)
        edge = layer("boundary3", 2 * width, 1, nn.relu(edge), bottleneck=True)
        context = layer("context3", 8 * width, 2, context, 2, bottleneck=True)
        pyramid = ContextPyramid(self.branch_channels, 4 * width, serial=large, dtype=dtype, name="pyramid")
        context = resize(pyramid(context, train=train), size)
        share = nn.sigmoid(edge.astype(jnp.float32)).astype(dtype)
        if large:
            last = NormConv(4 * width, 3, dtype=dtype, name="last")
            x = last(share * fine + (1 - share) * context, train=train)
        else:
            x = conv("last_fine", 4 * width, 1, (1 - share) * context + fine)
            x = x + conv("last_context", 4 * width, 1, context + share * fine)
        return Features({8: x}, {SPATIAL: first, EDGES: boundaries})


PIDNetS = variant(PIDNet, "PIDNetS", width=32, branch_channels=96, fine_blocks=2, context_blocks=3)
PIDNetM = variant(PIDNet, "PIDNetM", width=64, branch_channels=96, fine_blocks=2, context_blocks=3)
PIDNetL = variant(PIDNet, "PIDNetL", width=64, branch_channels=112, fine_blocks=3, context_blocks=4)
