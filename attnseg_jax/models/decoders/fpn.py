"""Panoptic FPN's semantic branch (Kirillov et al. 2019), after segmentation_models_pytorch's `decoders/fpn`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.decoders.base import Decoder, Gate, check_named, maps_of, sum_down
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import Conv, Dtype, classifier
from attnseg_jax.models.layers.residual import drop_channels
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class ConvGroupNorm(nn.Module):
    """Convolution that keeps the size, group normalisation and a ReLU.

    Attributes:
      features: output channels.
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
        conv = Conv(self.features, self.kernel_size, use_bias=self.use_bias, dtype=self.dtype, name="conv")
        # By two passes in float32, since one pass, flax's default, loses what is small beside its mean.
        norm = nn.GroupNorm(self.groups, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name="norm")
        x = norm(conv(x))
        return (nn.relu(x) if self.relu else x).astype(self.dtype)


class FPN(Decoder):
    """A feature pyramid whose levels, each brought to the finest one's size by 3x3 convolutions, are merged.

    Kirillov et al. 2019, arXiv:1901.02446; after `FPN` of github.com/qubvel-org/segmentation_models.pytorch. A level
    of stride 32 has three convolutions, each before bilinear upsampling by two with aligned corners. It gates no
    skips.

    Attributes:
      pyramid_channels: of the pyramid.
      channels: of the convolutions, a multiple of `groups`.
      groups: of the normalisations.
      merge: 'add' sums the levels, 'cat' concatenates them, fine to coarse.
      upsampling: 'nearest' or 'bilinear' on the top-down path of the pyramid.
      dropout: rate at which merged channels are dropped, in training.
      strides: nominal strides of the maps to use.
    """

    pyramid_channels: int = option(256, at_least=1)
    channels: int = option(128, at_least=1)
    groups: int = option(32, at_least=1)
    merge: str = option("add", choices=("add", "cat"))
    upsampling: str = option("nearest", choices=("nearest", "bilinear"))
    dropout: float = option(0.2, at_least=0, below=1)
    strides: tuple[int, ...] = (4, 8, 16, 32)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used."""
        if self.channels % self.groups:
            hint = f"does not divide into groups={self.groups}: make it a multiple"
            raise OptionError("channels", self.channels, hint)
        check_named(self.strides)
        maps = maps_of(features, self.strides, "strides")
        laterals = [
            Conv(self.pyramid_channels, 1, use_bias=True, dtype=self.dtype, name=f"lateral{stride}")(x)
            for stride, x in maps.items()
        ]
        levels = []
        sizes = [x.shape[1:3] for x in laterals]
        for i, (stride, x) in enumerate(zip(maps, sum_down(laterals, self.upsampling), strict=True)):
            for j in range(max(i, 1)):
                x = ConvGroupNorm(self.channels, self.groups, self.dtype, name=f"block{stride}_{j}")(x)
                x = resize(x, sizes[max(i - j - 1, 0)], align_corners=True)
            levels.append(x)
        x = sum(levels[1:], levels[0]) if self.merge == "add" else jnp.concatenate(levels, axis=-1)
        return Output(classifier(self.num_classes, "classifier")(drop_channels(x, self.dropout, train=train)))
