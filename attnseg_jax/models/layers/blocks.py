"""Blocks of several decoders: separable and normalised convolutions, atrous and pooled pyramids."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.conv import BatchNorm, Conv, ConvBN, Dtype
from attnseg_jax.ops import conv as conv_ops
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
    """Convolution that keeps the size, group normalisation and a ReLU.

    Attributes:
      features: output channels, a multiple of `groups`.
      groups: of the normalisation.
      kernel_size: of the convolution.
      use_bias: of the convolution.
      relu: whether there is one.
    """

    features: int
    groups: int = 32
    dtype: Dtype = jnp.float32
    kernel_size: int = 3
    use_bias: bool = False
    relu: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        """Applies convolution, normalisation and ReLU."""
        x = Conv(self.features, self.kernel_size, use_bias=self.use_bias, dtype=self.dtype, name="conv")(x)
        # By two passes in float32, since one pass, flax's default, loses what is small beside its mean.
        norm = nn.GroupNorm(self.groups, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name="norm")
        x = norm(x)
        return (nn.relu(x) if self.relu else x).astype(self.dtype)


class ConvTranspose(nn.Module):
    """Transposed convolution with a bias; PyTorch's `ConvTranspose2d`.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      stride: of the output, in pixels of the input.
      padding: rows and columns that are cut off on every side.
    """

    features: int
    kernel_size: int = 2
    stride: int = 2
    padding: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        """Returns the map of `stride` times the size where the padding is `(kernel_size - stride) / 2`."""
        size = self.kernel_size
        # Every output pixel sees this many taps along each axis.
        init = nn.initializers.variance_scaling(1 / (size / self.stride) ** 2, "fan_in", "normal", batch_axis=(0, 1))
        kernel = self.param("kernel", init, (size, size, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = conv_ops.conv_transpose(
            x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride, padding=self.padding
        )
        return y + bias.astype(self.dtype)[None, None, None]


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
