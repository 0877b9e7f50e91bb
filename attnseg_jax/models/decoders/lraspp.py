"""Lite reduced ASPP (Howard et al. 2019), after torchvision's `models/segmentation/lraspp.py`."""

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.models.decoders.base import Decoder, Gate, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import Conv, ConvBN, classifier
from attnseg_jax.models.options import option
from attnseg_jax.models.records import GateMap, sow_record
from attnseg_jax.ops.resize import resize


class LRASPP(Decoder):
    """The deepest map, its channels gated by their mean, and a finer map: the sum of the scores of both.

    Howard et al. 2019, arXiv:1905.02244 (MobileNetV3); after torchvision. It gates no skips.

    Attributes:
      channels: of the deepest map's convolution and gate.
      low_stride: nominal stride of the finer map.
    """

    channels: int = option(128, at_least=1)
    low_stride: int = 8

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finer map; the gate of the channels is recorded as `lraspp`."""
        low = maps_of(features, self.low_stride, "low_stride")[self.low_stride]
        x = features.deepest
        mean = x.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        scale = Conv(self.channels, 1, dtype=self.dtype, name="scale")(mean)
        scale = nn.sigmoid(scale.astype(jnp.float32))
        x = ConvBN(self.channels, 1, dtype=self.dtype, name="conv")(x, train=train) * scale.astype(self.dtype)
        # A classifier and a resizing, both linear and the weights of the latter summing to 1, may change places.
        high = resize(classifier(self.num_classes, "high_classifier")(x), low.shape[1:3])
        sow_record(self, "lraspp", GateMap(scale))
        return Output(classifier(self.num_classes, "low_classifier")(low) + high)
