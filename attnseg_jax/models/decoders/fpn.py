"""Panoptic FPN's semantic branch (Kirillov et al. 2019), after segmentation_models_pytorch's `decoders/fpn`."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_known, check_least, check_rate
from attnseg_jax.models.decoders.base import drop_channels, group_norm, maps_of, sum_down
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import Conv, Dtype, classifier
from attnseg_jax.ops.resize import resize

UPSAMPLINGS = ("nearest", "bilinear")
MERGES = ("add", "cat")


class ConvGroupNorm(nn.Module):
    """3x3 convolution, group normalisation and a rectifier.

    Attributes:
      features: output channels.
      groups: of the normalisation.
      dtype: compute type; the normalisation is float32.
    """

    features: int
    groups: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        """Applies convolution, normalisation and rectifier."""
        x = Conv(self.features, dtype=self.dtype, name="conv")(x)
        return nn.relu(group_norm(self.groups, "norm")(x)).astype(self.dtype)


class FPN(nn.Module):
    """A feature pyramid whose levels, each brought to the finest one's size by 3x3 convolutions, are merged.

    Kirillov et al. 2019, arXiv:1901.02446; after `FPN` of github.com/qubvel-org/segmentation_models.pytorch. A level
    of stride 32 has three convolutions, each before a bilinear enlargement by two with aligned corners. It gates no
    skips.

    Attributes:
      num_classes: channels of the logits.
      pyramid_channels: of the pyramid.
      channels: of the convolutions, a multiple of `groups`.
      groups: of the normalisations.
      merge: 'add' sums the levels, 'cat' concatenates them, fine to coarse.
      upsampling: 'nearest' or 'bilinear' on the way down the pyramid.
      dropout: rate at which merged channels are dropped, in training.
      strides: nominal strides of the maps to use.
      dtype: compute type; normalisations and logits are float32.
    """

    num_classes: int
    pyramid_channels: int = 256
    channels: int = 128
    groups: int = 32
    merge: str = "add"
    upsampling: str = "nearest"
    dropout: float = 0.2
    strides: tuple[int, ...] = (4, 8, 16, 32)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used.

        Raises:
          UserError: a stride the backbone does not have, an unknown choice, groups that do not divide the channels.
        """
        self._check()
        maps = maps_of(features, self.strides, "fpn")
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

    def _check(self) -> None:
        path = "config.model.decoder.fpn"
        check_known(path, MERGES, merge=self.merge)
        check_known(path, UPSAMPLINGS, upsampling=self.upsampling)
        check_least(path, 1, pyramid_channels=self.pyramid_channels, groups=self.groups)
        check_least(path, self.groups, channels=self.channels)
        check_rate(path, dropout=self.dropout)
        if self.channels % self.groups:
            raise UserError(
                f"{path}.channels={self.channels} does not divide into groups={self.groups}: make it a multiple"
            )
