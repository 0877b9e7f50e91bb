"""PSPNet's head (Zhao et al. 2017) and UPerNet's (Xiao et al. 2018): pooled pyramids."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import OptionError
from attnseg_jax.models.decoders.base import Decoder, Gate, check_named, maps_of, sum_down
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.blocks import PyramidPooling
from attnseg_jax.models.layers.conv import ConvBN, classifier, layer_norm
from attnseg_jax.models.layers.residual import drop_channels
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class PSP(Decoder):
    """The deepest map beside its means over grids of bins, a 3x3 convolution and a classifier.

    Zhao et al. 2017, arXiv:1612.01105; after github.com/hszhao/semseg. Grids are upsampled with aligned corners. It
    gates no skips.

    Attributes:
      channels: of the convolution.
      bins: sizes of the grids.
      bin_channels: of each grid; 0 takes the map's, divided by the number of grids.
      dropout: rate at which channels are dropped before the classifier, in training.
    """

    channels: int = option(512, at_least=1)
    bins: tuple[int, ...] = option((1, 2, 3, 6), at_least=1, at_most=1024)
    bin_channels: int = option(0, at_least=0)
    dropout: float = option(0.1, at_least=0, below=1)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the deepest map."""
        _check_bins(self.bins)
        x = features.deepest
        channels = self.bin_channels or max(x.shape[-1] // len(self.bins), 1)
        x = PyramidPooling(self.bins, channels, align_corners=True, dtype=self.dtype, name="pool")(x, train=train)
        x = ConvBN(self.channels, dtype=self.dtype, name="conv")(x, train=train)
        return Output(classifier(self.num_classes, "classifier")(drop_channels(x, self.dropout, train=train)))


class UPer(Decoder):
    """A feature pyramid under a pooled one: all levels, smoothed and upsampled to the finest, are fused.

    Xiao et al. 2018, arXiv:1807.10221; after `UPerNet` of github.com/qubvel-org/segmentation_models.pytorch. It gates
    no skips.

    Attributes:
      channels: of all levels and grids.
      bins: sizes of the grids over the coarsest map.
      norm_maps: normalises the channels of every map first, as segmentation_models.pytorch does and the paper does not.
      dropout: rate at which channels are dropped before the classifier, in training.
      strides: nominal strides of the maps to use.
    """

    channels: int = option(256, at_least=1)
    bins: tuple[int, ...] = option((1, 2, 3, 6), at_least=1, at_most=1024)
    norm_maps: bool = False
    dropout: float = option(0.1, at_least=0, below=1)
    strides: tuple[int, ...] = (4, 8, 16, 32)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used."""
        _check_bins(self.bins)
        check_named(self.strides)

        def conv(kernel_size: int, name: str) -> Callable:
            return ConvBN(self.channels, kernel_size, dtype=self.dtype, name=name)

        maps = maps_of(features, self.strides, "strides")
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
        return Output(classifier(self.num_classes, "classifier")(drop_channels(x, self.dropout, train=train)))


def _check_bins(bins):
    if not bins:
        raise OptionError("bins", bins, "names no grid: name some, such as (1, 2, 3, 6)")
    if len(set(bins)) < len(bins):
        raise OptionError("bins", bins, "names a grid twice: name each size once")
