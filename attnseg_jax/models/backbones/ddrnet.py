"""DDRNet (Pan et al. 2022, arXiv:2101.06085), after mmsegmentation's `backbones/ddrnet.py`."""

from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.context_pyramid import ContextPyramid
from attnseg_jax.models.layers.conv import ConvBN
from attnseg_jax.models.layers.dual_blocks import DualLayer, dual_stem
from attnseg_jax.ops.resize import resize

# Where a branch of fine resolution goes on to a head of its own, in training.
SPATIAL = "spatial"


class DDRNet(Backbone):
    """A branch that stays at stride 8 beside one that goes down to stride 64, which exchange what they see; one map.

    The map has stride 8; `extras["spatial"]` is the fine branch after the first exchange, which the decoder `ddr` may
    give a head. github.com/ydhongHIT/DDRNet. Images of any size; the original wants a multiple of 8.

    A subclass names the channels of the stem (`width`) and of the context pyramid's branches (`branch_channels`).
    """

    width: ClassVar[int]
    branch_channels: ClassVar[int]
    layouts = ("mmseg_ddrnet",)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature map of `image` (float, normalised)."""
        width, dtype = self.width, self.dtype

        def layer(name: str, features: int, blocks: int, x: Array, stride: int = 1) -> Array:
            block = DualLayer(features, blocks, bottleneck=blocks == 1, stride=stride, dtype=dtype, name=name)
            return block(x, train=train)

        def conv(name: str, features: int, x: Array, size: int = 3, relu: bool = False) -> Array:
            options = {"activation": nn.relu if relu else None, "dtype": dtype, "name": name}
            return ConvBN(features, size, 2 if size == 3 else 1, **options)(x, train=train)

        x = dual_stem(image, width, 2, dtype, train=train)
        context = layer("context1", 4 * width, 2, x, 2)
        fine = layer("spatial1", 2 * width, 2, x)
        size = fine.shape[1:3]
        up = conv("compress1", 2 * width, nn.relu(context), 1)
        context = context + conv("down1", 4 * width, nn.relu(fine))
        first = fine = fine + resize(up, size)
        context = layer("context2", 8 * width, 2, nn.relu(context), 2)
        fine = layer("spatial2", 2 * width, 2, nn.relu(fine))
        up = conv("compress2", 2 * width, nn.relu(context), 1)
        down = conv("down2a", 4 * width, nn.relu(fine), relu=True)
        context = context + conv("down2b", 8 * width, down)
        fine = fine + resize(up, size)
        fine = layer("spatial3", 2 * width, 1, nn.relu(fine))
        context = layer("context3", 8 * width, 1, nn.relu(context), 2)
        pyramid = ContextPyramid(self.branch_channels, 4 * width, serial=True, dtype=dtype, name="pyramid")
        context = pyramid(context, train=train)
        return Features({8: fine + resize(context, size)}, {SPATIAL: first})


DDRNet23Slim = variant(DDRNet, "DDRNet23Slim", width=32, branch_channels=128)
