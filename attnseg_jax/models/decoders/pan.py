"""Pyramid attention network (Li et al. 2018), after segmentation_models_pytorch's `decoders/pan`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.decoders.base import Decoder, Gate, check_named, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier
from attnseg_jax.models.layers.gates import gated, pooled
from attnseg_jax.models.options import option
from attnseg_jax.models.records import GateMap, sow_record
from attnseg_jax.ops import pool
from attnseg_jax.ops.resize import resize
from attnseg_jax.ops.symbolic import any_below


def _halved(x: Array) -> Array:
    """2x2 max-pooling; a single row or column stays."""
    kernel = tuple(1 if any_below(2, n) else 2 for n in x.shape[1:3])
    return pool.max_pool(x, kernel, kernel)


def _enlarged(x: Array, like: Array) -> Array:
    return resize(x, like.shape[1:3], align_corners=True)


class PyramidAttention(nn.Module):
    """The narrowed map times a single-channel pyramid of 7x7, 5x5 and 3x3 convolutions, plus its narrowed mean.

    Attributes:
      channels: of the result.
    """

    channels: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w o"]:
        """Returns the map after attention."""

        def conv(features: int, size: int, name: str, x: Array) -> Array:
            return ConvBN(features, size, use_bias=True, dtype=self.dtype, name=name)(x, train=train)

        mean = conv(self.channels, 1, "mean", pooled(x))
        middle = conv(self.channels, 1, "middle", x)
        half = conv(1, 7, "down2", _halved(x))
        quarter = conv(1, 5, "down4", _halved(half))
        eighth = conv(1, 3, "down8b", conv(1, 3, "down8a", _halved(quarter)))
        y = conv(1, 5, "lateral4", quarter) + _enlarged(eighth, quarter)
        y = conv(1, 7, "lateral2", half) + _enlarged(y, half)
        return _enlarged(y, x) * middle + mean


class PAN(Decoder):
    """Pyramid attention on the deepest map, then finer maps, each weighted in its channels by the mean of the coarser.

    Li et al. 2018, arXiv:1805.10180; after `PAN` of github.com/qubvel-org/segmentation_models.pytorch, whose backbone
    has output stride 16 (in its ResNets `contract_dilation=False`) and which upsamples with aligned corners,
    `config.model.decoder.align_corners=True`. It gates no skips.

    Attributes:
      channels: of all maps.
      strides: nominal strides of the finer maps.
    """

    channels: int = option(32, at_least=1)
    strides: tuple[int, ...] = (4, 8, 16)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map; the gates of its channels are recorded as `pan`."""
        check_named(self.strides)
        maps = maps_of(features, self.strides, "strides")
        x = PyramidAttention(self.channels, self.dtype, name="attention")(features.deepest, train=train)
        for stride, low in reversed(maps.items()):

            def conv(size: int, name: str, x: Array, stride: int = stride, **options) -> Array:
                options |= {"use_bias": True, "dtype": self.dtype, "name": f"{name}{stride}"}
                return ConvBN(self.channels, size, **options)(x, train=train)

            weights = nn.sigmoid(conv(1, "gate", pooled(x), activation=None).astype(jnp.float32))
            sow_record(self, "pan", GateMap(weights))
            x = _enlarged(x, low) + gated(conv(3, "low", low), weights)
        return Output(classifier(self.num_classes, "classifier", 3)(x))
