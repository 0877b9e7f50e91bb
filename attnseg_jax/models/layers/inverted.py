"""Inverted residual blocks (Sandler et al. 2018), of which MobileNet and EfficientNet consist."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype
from attnseg_jax.models.layers.residual import drop_path
from attnseg_jax.ops.conv import Sides


def conv_norm(
    features: int,
    kernel_size: int = 1,
    *shape: Any,
    depthwise: bool = False,
    activation: Callable | None = None,
    **options: Any,
) -> ConvBN:
    """`ConvBN` with TensorFlow's constants of normalisation (1e-3, 0.01).

    Arguments are its fields; `depthwise` takes one filter for each channel.
    """
    groups = features if depthwise else 1
    # The fan-out of one filter, not of all of them together.
    init = nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal")
    options |= {"groups": groups, "kernel_init": init, "activation": activation, "momentum": 0.01, "epsilon": 1e-3}
    return ConvBN(features, kernel_size, *shape, **options)


class SqueezeExcite(nn.Module):
    """Weighs channels by their means: two 1x1 convolutions, a ReLU between, a hard sigmoid at the end.

    Attributes:
      squeezed: channels between the two.
    """

    squeezed: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Multiplies every channel by its weight."""
        y = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        y = nn.relu(Conv(self.squeezed, 1, use_bias=True, dtype=self.dtype, name="reduce")(y))
        return x * nn.hard_sigmoid(Conv(x.shape[-1], 1, use_bias=True, dtype=self.dtype, name="expand")(y))


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise convolution, linear projection; a shortcut where the shape stays.

    Attributes:
      features: output channels.
      expanded: channels of the depthwise convolution; those of the input save the expansion.
      kernel_size, stride, padding, dilation: of the depthwise convolution, as in `Conv`.
      activation: after the expansion and the depthwise convolution.
      squeezed: channels of a squeeze-and-excitation after the depthwise convolution; 0 leaves it out.
      drop_path: rate at which the branch is left out for an image, in training.
    """

    features: int
    expanded: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | Sides = -1
    dilation: int = 1
    activation: Callable | None = nn.relu6
    squeezed: int = 0
    drop_path: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j o"]:
        """Applies the block."""
        y = x
        if self.expanded != x.shape[-1]:
            y = conv_norm(self.expanded, activation=self.activation, dtype=self.dtype, name="expand")(y, train=train)
        y = conv_norm(
            self.expanded,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            depthwise=True,
            activation=self.activation,
            dtype=self.dtype,
            name="depthwise",
        )(y, train=train)
        if self.squeezed:
            y = SqueezeExcite(self.squeezed, self.dtype, name="squeeze")(y)
        y = conv_norm(self.features, dtype=self.dtype, name="project")(y, train=train)
        if self.stride != 1 or self.features != x.shape[-1]:
            return y
        return x + drop_path(y, self.drop_path, train=train)


def round_channels(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, but no less than nine tenths of them.

    >>> round_channels(22.4), round_channels(11.5)
    (24, 16)
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
