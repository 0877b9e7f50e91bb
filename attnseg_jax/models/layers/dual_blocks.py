"""Residual blocks of networks of several resolutions, DDRNet and PIDNet, after mmsegmentation's `basic_block.py`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.conv import ConvBN, Dtype


class DualBlock(nn.Module):
    """A residual block: two 3x3 convolutions, or as a bottleneck 1x1, 3x3 and a 1x1 that doubles the channels.

    Attributes:
      width: channels of the 3x3 convolutions.
      bottleneck: which form.
      stride: of the first 3x3 convolution.
      relu: whether the sum passes one.
    """

    width: int
    bottleneck: bool = False
    stride: int = 1
    relu: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j o"]:
        """Adds the block's branch to its shortcut."""

        def conv(features: int, size: int, stride: int, name: str, x: Array, last: bool = False) -> Array:
            activation = None if last else nn.relu
            block = ConvBN(features, size, stride, activation=activation, dtype=self.dtype, name=name)
            return block(x, train=train)

        if self.bottleneck:
            features = 2 * self.width
            y = conv(self.width, 3, self.stride, "conv2", conv(self.width, 1, 1, "conv1", x))
            y = conv(features, 1, 1, "conv3", y, last=True)
        else:
            features = self.width
            y = conv(features, 3, 1, "conv2", conv(features, 3, self.stride, "conv1", x), last=True)
        if self.stride != 1 or x.shape[-1] != features:
            x = conv(features, 1, self.stride, "downsample", x, last=True)
        return nn.relu(x + y) if self.relu else x + y


class DualLayer(nn.Module):
    """Blocks in a row, a ReLU after each but the last; a single basic one has one, as in the original.

    Attributes:
      width, bottleneck, stride: of the blocks; the stride of the first.
      blocks: their number.
    """

    width: int
    blocks: int
    bottleneck: bool = False
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j o"]:
        """Applies the blocks."""
        for i in range(self.blocks):
            relu = not self.bottleneck if i == 0 else i < self.blocks - 1
            block = DualBlock(
                self.width, self.bottleneck, self.stride if i == 0 else 1, relu, self.dtype, name=f"block{i}"
            )
            x = block(x, train=train)
        return x


def dual_stem(x: Float[Array, "b h w c"], width: int, blocks: int, dtype: Dtype, *, train: bool) -> Array:
    """The first layers, down to stride 8 and twice the width; called in a compact method, whose module gets them."""
    for i in (1, 2):
        x = ConvBN(width, stride=2, dtype=dtype, name=f"stem{i}")(x, train=train)
    x = nn.relu(DualLayer(width, blocks, dtype=dtype, name="stem_layer1")(x, train=train))
    return nn.relu(DualLayer(2 * width, blocks, stride=2, dtype=dtype, name="stem_layer2")(x, train=train))
