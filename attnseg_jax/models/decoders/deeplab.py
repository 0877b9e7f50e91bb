"""DeepLabV3 (Chen et al. 2017) and DeepLabV3+ (Chen et al. 2018)."""

import itertools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import check_least, check_rate
from attnseg_jax.models.decoders.base import gated, maps_of
from attnseg_jax.models.decoders.fcn import auxiliary
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.blocks import ASPP, SeparableConvBN
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier
from attnseg_jax.ops.resize import resize

# Pixels of the image between the taps of the three branches: rates of 6, 12 and 18 at output stride 16.
_REACH = (96, 192, 288)


def real_stride(features: Features) -> int:
    """The deepest map's stride, which dilation makes smaller than its nominal one.

    >>> import numpy as np
    >>> real_stride(Features({s: np.zeros((1, n, n + 1, 3)) for s, n in {4: 9, 8: 5, 16: 3, 32: 3}.items()}))
    16
    """
    strides = sorted(features.maps)
    stride = strides[0]
    for fine, coarse in itertools.pairwise(strides):
        if features.maps[fine].shape[1:3] != features.maps[coarse].shape[1:3]:
            stride = stride * coarse // fine
    return stride


def atrous_rates(features: Features, rates: tuple[int, ...]) -> tuple[int, ...]:
    """`rates`, or where there are none those of the paper for the stride of the deepest map."""
    stride = real_stride(features)
    return rates or tuple(max(reach // stride, 1) for reach in _REACH)


class DeepLabV3(nn.Module):
    """Atrous spatial pyramid pooling of the deepest map, a 3x3 convolution and a classifier.

    Chen et al. 2017, arXiv:1706.05587; after torchvision's `models/segmentation/deeplabv3.py`. It gates no skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of the branches and the convolution.
      rates: dilations of the branches; () takes 6, 12, 18 at output stride 16, twice as much at 8, half at 32.
      dropout: rate after the pyramid, in training.
      aux: adds an auxiliary head on the map of nominal stride `aux_stride`.
      aux_stride: its stride.
      dtype: compute type; logits are float32.
    """

    num_classes: int
    channels: int = 256
    rates: tuple[int, ...] = ()
    dropout: float = 0.5
    aux: bool = False
    aux_stride: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the deepest map, and auxiliary logits.

        Raises:
          UserError: the auxiliary head asks for a map the backbone does not have; no channels, rates below 1.
        """
        _check("deeplabv3", self.rates, self.dropout, channels=self.channels)
        aux = auxiliary(self, features, "deeplabv3", train=train)
        rates = atrous_rates(features, self.rates)
        aspp = ASPP(rates, self.channels, dropout=self.dropout, dtype=self.dtype, name="aspp")
        x = aspp(features.deepest, train=train)
        x = ConvBN(self.channels, dtype=self.dtype, name="conv")(x, train=train)
        return Output(classifier(self.num_classes, "classifier")(x), aux)


class DeepLabV3Plus(nn.Module):
    """DeepLabV3's pyramid, enlarged to a finer map that is narrowed and set beside it, with separable convolutions.

    Chen et al. 2018, arXiv:1802.02611; after `DeepLabV3Plus` of github.com/qubvel-org/segmentation_models.pytorch,
    whose pyramid ends in a convolution more. The finer map is a skip that a mechanism may gate.

    Attributes:
      num_classes: channels of the logits.
      channels: of all convolutions but the finer map's.
      low_channels: of the finer map.
      low_stride: its nominal stride.
      rates: dilations of the branches; () takes 6, 12, 18 at output stride 16, twice as much at 8, half at 32.
      separable: makes the 3x3 convolutions separable.
      dropout: rate after the pyramid, in training.
      dtype: compute type; logits are float32.
    """

    num_classes: int
    channels: int = 256
    low_channels: int = 48
    low_stride: int = 4
    rates: tuple[int, ...] = ()
    separable: bool = True
    dropout: float = 0.5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finer map.

        Raises:
          UserError: the backbone has no map of the finer stride; no channels, rates below 1.
        """
        name = "deeplabv3plus"
        _check(name, self.rates, self.dropout, channels=self.channels, low_channels=self.low_channels)
        maps = maps_of(features, (self.low_stride,), name, "change low_stride, or choose another backbone or decoder")
        convolution = SeparableConvBN if self.separable else ConvBN
        rates = atrous_rates(features, self.rates)
        aspp = ASPP(rates, self.channels, self.separable, self.dropout, self.dtype, name="aspp")
        x = aspp(features.deepest, train=train)
        x = convolution(self.channels, dtype=self.dtype, name="smooth")(x, train=train)
        low, attention = gated(gate, maps[self.low_stride], x, {}, stride=self.low_stride, train=train)
        low = ConvBN(self.low_channels, 1, dtype=self.dtype, name="low")(low, train=train)
        x = jnp.concatenate([resize(x, low.shape[1:3], align_corners=True), low], axis=-1)
        x = convolution(self.channels, dtype=self.dtype, name="fuse")(x, train=train)
        return Output(classifier(self.num_classes, "classifier")(x), attention=attention)


def _check(name, rates, dropout, **channels):
    path = f"config.model.decoder.{name}"
    check_least(path, 1, **channels, rates=min(rates, default=1))
    check_rate(path, dropout=dropout)
