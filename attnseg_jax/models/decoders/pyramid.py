"""PSPNet's head (Zhao et al. 2017) and UPerNet's (Xiao et al. 2018): pooled pyramids."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import UserError, check_least, check_rate
from attnseg_jax.models.decoders.base import drop_channels, maps_of, sum_down
from attnseg_jax.models.decoders.fcn import auxiliary
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.blocks import PyramidPooling
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier, layer_norm
from attnseg_jax.ops.resize import resize


class PSP(nn.Module):
    """The deepest map beside its means over grids of bins, a 3x3 convolution and a classifier.

    Zhao et al. 2017, arXiv:1612.01105; after github.com/hszhao/semseg. Grids are enlarged with aligned corners. It
    gates no skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of the convolution.
      bins: sizes of the grids.
      bin_channels: of each grid; 0 takes the map's, divided by the number of grids.
      dropout: rate at which channels are dropped before the classifier, in training.
      aux: adds an auxiliary head on the map of nominal stride `aux_stride`.
      aux_stride: its stride.
      dtype: compute type; logits are float32.
    """

    num_classes: int
    channels: int = 512
    bins: tuple[int, ...] = (1, 2, 3, 6)
    bin_channels: int = 0
    dropout: float = 0.1
    aux: bool = False
    aux_stride: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the deepest map, and auxiliary logits.

        Raises:
          UserError: the auxiliary head asks for a map the backbone does not have; no channels or grids.
        """
        _check("psp", self.bins, self.dropout, channels=self.channels)
        check_least("config.model.decoder.psp", 0, bin_channels=self.bin_channels)
        aux = auxiliary(self, features, "psp", train=train)
        x = features.deepest
        channels = self.bin_channels or max(x.shape[-1] // len(self.bins), 1)
        x = PyramidPooling(self.bins, channels, align_corners=True, dtype=self.dtype, name="pool")(x, train=train)
        x = ConvBN(self.channels, dtype=self.dtype, name="conv")(x, train=train)
        return Output(classifier(self.num_classes, "classifier")(drop_channels(x, self.dropout, train=train)), aux)


class UPer(nn.Module):
    """A feature pyramid under a pooled one: all levels, smoothed and enlarged to the finest, are fused.

    Xiao et al. 2018, arXiv:1807.10221; after `UPerNet` of github.com/qubvel-org/segmentation_models.pytorch. It gates
    no skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of all levels and grids.
      bins: sizes of the grids over the coarsest map.
      norm_maps: normalises the channels of every map first, as segmentation_models.pytorch does and the paper does not.
      dropout: rate at which channels are dropped before the classifier, in training.
      strides: nominal strides of the maps to use.
      aux: adds an auxiliary head on the map of nominal stride `aux_stride`.
      aux_stride: its stride.
      dtype: compute type; normalisations and logits are float32.
    """

    num_classes: int
    channels: int = 256
    bins: tuple[int, ...] = (1, 2, 3, 6)
    norm_maps: bool = False
    dropout: float = 0.1
    strides: tuple[int, ...] = (4, 8, 16, 32)
    aux: bool = False
    aux_stride: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used, and auxiliary logits.

        Raises:
          UserError: a stride the backbone does not have; no channels, grids or strides.
        """
        _check("uper", self.bins, self.dropout, channels=self.channels)

        def conv(kernel_size: int, name: str) -> Callable:
            return ConvBN(self.channels, kernel_size, dtype=self.dtype, name=name)

        aux = auxiliary(self, features, "uper", train=train)
        maps = maps_of(features, self.strides, "uper")
        if self.norm_maps:
            maps = {stride: layer_norm(f"norm{stride}")(x).astype(self.dtype) for stride, x in maps.items()}
        *fine, coarsest = maps
        pooled = PyramidPooling(self.bins, self.channels, dtype=self.dtype, name="pool")(maps[coarsest], train=train)
        laterals = [conv(1, f"lateral{stride}")(maps[stride], train=train) for stride in fine]
        laterals.append(conv(3, f"lateral{coarsest}")(pooled, train=train))
        levels = sum_down(laterals)
        levels[:-1] = [conv(3, f"smooth{s}")(x, train=train) for s, x in zip(fine, levels[:-1], strict=True)]
        size = levels[0].shape[1:3]
        x = conv(3, "fuse")(jnp.concatenate([resize(x, size) for x in levels], axis=-1), train=train)
        return Output(classifier(self.num_classes, "classifier")(drop_channels(x, self.dropout, train=train)), aux)


def _check(name, bins, dropout, **channels):
    path = f"config.model.decoder.{name}"
    check_least(path, 1, **channels, bins=min(bins, default=0))
    check_rate(path, dropout=dropout)
    if len(set(bins)) < len(bins):
        raise UserError(f"{path}.bins={bins} names a grid twice: name each size once")
