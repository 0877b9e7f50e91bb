"""DeepLabV3 (Chen et al. 2017) and DeepLabV3+ (Chen et al. 2018)."""

import itertools

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.models.decoders.base import Decoder, Gate, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.blocks import ASPP, SeparableConvBN
from attnseg_jax.models.layers.conv import ConvBN, classifier
from attnseg_jax.models.options import option
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


class DeepLabV3(Decoder):
    """Atrous spatial pyramid pooling of the deepest map, a 3x3 convolution and a classifier.

    Chen et al. 2017, arXiv:1706.05587; after torchvision's `models/segmentation/deeplabv3.py`. It gates no skips.

    Attributes:
      channels: of the branches and the convolution.
      rates: dilations of the branches; () takes 6, 12, 18 at output stride 16, twice as much at 8, half at 32.
      dropout: rate after the pyramid, in training.
    """

    channels: int = option(256, at_least=1)
    rates: tuple[int, ...] = option((), at_least=1, at_most=1024)
    dropout: float = option(0.5, at_least=0, below=1)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the deepest map."""
        rates = atrous_rates(features, self.rates)
        aspp = ASPP(rates, self.channels, dropout=self.dropout, dtype=self.dtype, name="aspp")
        x = aspp(features.deepest, train=train)
        x = ConvBN(self.channels, dtype=self.dtype, name="conv")(x, train=train)
        return Output(classifier(self.num_classes, "classifier")(x))


class DeepLabV3Plus(Decoder):
    """DeepLabV3's pyramid, upsampled to a finer map that is narrowed and set beside it, with separable convolutions.

    Chen et al. 2018, arXiv:1802.02611; after `DeepLabV3Plus` of github.com/qubvel-org/segmentation_models.pytorch,
    whose pyramid ends in a convolution more. The finer map is a skip that a mechanism may gate.

    Attributes:
      channels: of all convolutions but the finer map's.
      low_channels: of the finer map.
      low_stride: its nominal stride.
      rates: dilations of the branches; () takes 6, 12, 18 at output stride 16, twice as much at 8, half at 32.
      separable: makes the 3x3 convolutions separable.
      dropout: rate after the pyramid, in training.
    """

    channels: int = option(256, at_least=1)
    low_channels: int = option(48, at_least=1)
    low_stride: int = 4
    rates: tuple[int, ...] = option((), at_least=1, at_most=1024)
    separable: bool = True
    dropout: float = option(0.5, at_least=0, below=1)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finer map."""
        low = maps_of(features, self.low_stride, "low_stride")[self.low_stride]
        convolution = SeparableConvBN if self.separable else ConvBN
        rates = atrous_rates(features, self.rates)
        aspp = ASPP(rates, self.channels, self.separable, self.dropout, self.dtype, name="aspp")
        x = aspp(features.deepest, train=train)
        x = convolution(self.channels, dtype=self.dtype, name="smooth")(x, train=train)
        low = gate(low, x, stride=self.low_stride, train=train) if gate else low
        low = ConvBN(self.low_channels, 1, dtype=self.dtype, name="low")(low, train=train)
        x = jnp.concatenate([resize(x, low.shape[1:3], align_corners=True), low], axis=-1)
        x = convolution(self.channels, dtype=self.dtype, name="fuse")(x, train=train)
        return Output(classifier(self.num_classes, "classifier")(x))
