"""Lite reduced ASPP (Howard et al. 2019), after torchvision's `models/segmentation/lraspp.py`."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import check_least
from attnseg_jax.models.decoders.base import maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype, classifier
from attnseg_jax.models.records import GateMap
from attnseg_jax.ops.resize import resize


class LRASPP(nn.Module):
    """The deepest map, its channels gated by their mean, and a finer map: the sum of the scores of both.

    Howard et al. 2019, arXiv:1905.02244 (MobileNetV3); after torchvision. It gates no skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of the deepest map's convolution and gate.
      low_stride: nominal stride of the finer map.
      dtype: compute type; mean, gate and logits are float32.
    """

    num_classes: int
    channels: int = 128
    low_stride: int = 8
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finer map; `attention['lraspp0']` is the gate of the channels.

        Raises:
          UserError: the backbone has no map of the finer stride; no channels.
        """
        check_least("config.model.decoder.lraspp", 1, channels=self.channels)
        hint = "change low_stride, or choose another backbone or decoder"
        low = maps_of(features, (self.low_stride,), "lraspp", hint)[self.low_stride]
        x = features.deepest
        mean = x.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        scale = Conv(self.channels, 1, dtype=self.dtype, name="scale")(mean)
        scale = nn.sigmoid(scale.astype(jnp.float32))
        x = ConvBN(self.channels, 1, dtype=self.dtype, name="conv")(x, train=train) * scale.astype(self.dtype)
        # A classifier and a resizing, both linear and the weights of the latter summing to 1, may change places.
        high = resize(classifier(self.num_classes, "high_classifier")(x), low.shape[1:3])
        logits = classifier(self.num_classes, "low_classifier")(low) + high
        return Output(logits, attention={"lraspp0": GateMap(scale)})
