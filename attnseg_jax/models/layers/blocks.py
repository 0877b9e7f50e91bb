"""Blocks of several decoders: separable and normalised convolutions, atrous and pooled pyramids."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.conv import BatchNorm, Conv, ConvBN, Dtype
from attnseg_jax.ops.pool import adaptive_avg_pool
from attnseg_jax.ops.resize import resize


class SeparableConvBN(nn.Module):
    """Depthwise convolution, 1x1 convolution, batch normalisation, ReLU; nothing between the two convolutions.

    Attributes:
      features: output channels.
      kernel_size: of the depthwise convolution.
      dilation: of the depthwise convolution.
    """

    features: int
    kernel_size: int = 3
    dilation: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w o"]:
        """Applies both convolutions, normalisation and ReLU."""
        c = x.shape[-1]
        depthwise = Conv(c, self.kernel_size, dilation=self.dilation, groups=c, dtype=self.dtype, name="depthwise")
        x = Conv(self.features, 1, dtype=self.dtype, name="pointwise")(depthwise(x))
        return nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train=train))


class ConvGroupNorm(nn.Module):
    """Convolution, group normalisation and an activation.

    Attributes:
      features: output channels, a multiple of `groups`.
      kernel_size: of the convolution.
      groups: of the normalisation.
      activation: applied last; None leaves the result linear.
    """

    features: int
    kernel_size: int = 3
    groups: int = 32
    activation: Callable | None = nn.relu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        """Applies convolution, normalisation and activation."""
        x = Conv(self.features, self.kernel_size, dtype=self.dtype, name="conv")(x)
        # By two passes in float32, since one pass, flax's default, loses what is small beside its mean.
        norm = nn.GroupNorm(self.groups, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name="norm")
        x = norm(x)
        return (x if self.activation is None else self.activation(x)).astype(self.dtype)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, several dilated 3x3 and a pooled branch, projected together, O(N c^2).

    Chen et al. 2017, arXiv:1706.05587. All branches and the projection have a normalisation and a ReLU.

    Attributes:
      rates: dilations of the 3x3 convolutions.
      channels: of every branch and of the result.
      separable: makes the dilated convolutions separable.
      dropout: rate after the projection, in training.
    """

    rates: tuple[int, ...]
    channels: int = 256
    separable: bool = False
    dropout: float = 0.5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w o"]:
        """Returns the projection of all branches."""

        def pointwise(name: str) -> ConvBN:
            return ConvBN(self.channels, 1, dtype=self.dtype, name=name)

        dilated = SeparableConvBN if self.separable else ConvBN
        branches = [pointwise("branch0")(x, train=train)]
        for i, rate in enumerate(self.rates, 1):
            branch = dilated(self.channels, 3, dilation=rate, dtype=self.dtype, name=f"branch{i}")
            branches.append(branch(x, train=train))
        pooled = pointwise("pool")(x.astype(jnp.float32).mean(axis=(1, 2), keepdims=True), train=train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = pointwise("project")(jnp.concatenate(branches, axis=-1), train=train)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class PyramidPooling(nn.Module):
    """The map beside its means over grids of bins, each through a 1x1 convolution, normalisation and ReLU.

    Zhao et al. 2017, arXiv:1612.01105.

    Attributes:
      bins: sizes of the grids.
      channels: of each grid.
      align_corners: resizes the grids with aligned corners instead of half-pixel centres.
    """

    bins: tuple[int, ...] = (1, 2, 3, 6)
    channels: int = 512
    align_corners: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w o"]:
        """Returns `c + channels * len(bins)` channels: the map's own first, then those of every grid."""
        parts = [x]
        for bins in self.bins:
            y = ConvBN(self.channels, 1, dtype=self.dtype, name=f"bin{bins}")
            y = y(adaptive_avg_pool(x, bins), train=train)
            parts.append(resize(y, x.shape[1:3], align_corners=self.align_corners))
        return jnp.concatenate(parts, axis=-1)
