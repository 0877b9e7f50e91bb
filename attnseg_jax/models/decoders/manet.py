"""MA-Net (Fan et al. 2020), after segmentation_models_pytorch's `decoders/manet`."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.decoders.unet import UNetBlock, steps_up
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype, classifier, torch_default_init
from attnseg_jax.models.layers.gates import ChannelScores, gated, pooled
from attnseg_jax.models.options import option
from attnseg_jax.models.records import GateMap, sow_record
from attnseg_jax.ops.resize import resize


class PositionAttention(nn.Module):
    """`out(x + softmax(q k^T) v)` with one softmax over all pairs of an image, unscaled, O(n^2 c).

    As the original has it, the gathered `[n, c]` numbers are read as `[c, n]`, so that a channel of the result holds
    several channels of neighbouring pixels.

    Attributes:
      channels: of queries and keys.
    """

    channels: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the map after attention."""
        b, h, w, c = x.shape

        def conv(features: int, size: int, name: str, x: Array = x) -> Array:
            options = {"use_bias": True, "dtype": self.dtype, "kernel_init": torch_default_init}
            return Conv(features, size, **options, name=name)(x)

        query, key, value = conv(self.channels, 1, "query"), conv(self.channels, 1, "key"), conv(c, 3, "value")
        query, key, value = (y.reshape(b, h * w, -1) for y in (query, key, value))
        scores = jnp.einsum("bnc,bmc->bnm", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores.reshape(b, -1), axis=-1).reshape(scores.shape)
        y = jnp.einsum("bnm,bmc->bnc", weights.astype(value.dtype), value)
        y = jnp.moveaxis(y.reshape(b, c, h, w), 1, 3)
        return conv(c, 3, "out", x + y)


class ManetBlock(nn.Module):
    """The map, upsampled beside the skip, its channels gated by the means of both, through two 3x3 convolutions.

    Attributes:
      features: output channels.
      reduction: hidden width of the gates, a part of the skip's channels.
    """

    features: int
    reduction: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b y x c"], skip: Float[Array, "b h w d"], *, train: bool
    ) -> Float[Array, "b h w o"]:
        """Returns the finer map; half the sum of the two gates is recorded as `manet`."""

        def conv(features: int, size: int, name: str, x: Array) -> Array:
            return ConvBN(features, size, dtype=self.dtype, name=name)(x, train=train)

        def gate(name: str, x: Array) -> Array:
            return nn.sigmoid(ChannelScores(self.reduction, use_bias=True, dtype=self.dtype, name=name)(pooled(x)))

        x = conv(skip.shape[-1], 1, "narrow", conv(x.shape[-1], 3, "widen", x))
        x = resize(x, skip.shape[1:3], "nearest")
        both = gate("gate_map", x) + gate("gate_skip", skip)
        sow_record(self, "manet", GateMap(both / 2))
        x = jnp.concatenate([gated(x, both), skip.astype(self.dtype)], axis=-1)
        return conv(self.features, 3, "conv2", conv(self.features, 3, "conv1", x))


class MANet(Decoder):
    """Position attention on the deepest map, then a U-Net's way up with channel gates of map and skip.

    Fan et al. 2020 (IEEE Access 8); after `MAnet` of github.com/qubvel-org/segmentation_models.pytorch. Where the
    backbone has no map of a stride the way goes on without a skip; the last stride is 1. A mechanism may gate the skips
    too.

    Attributes:
      channels: of the blocks, coarse to fine, the last at stride 1; a backbone of a smaller stride takes the last ones.
      attention_channels: of queries and keys.
      reduction: hidden width of the gates, a part of the skip's channels.
    """

    channels: tuple[int, ...] = option((256, 128, 64, 32, 16), at_least=1)
    attention_channels: int = option(64, at_least=1)
    reduction: int = option(16, at_least=1)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map at stride 1, or else at twice that at stride 2."""
        x = PositionAttention(self.attention_channels, self.dtype, name="attention")(features.deepest)
        for stride, channels in steps_up(features, self.channels):
            skip = features.maps.get(stride)
            if skip is None:
                x = UNetBlock(channels, stride, dtype=self.dtype, name=f"block{stride}")(x, None, None, train=train)
                continue
            skip = gate(skip, x, stride=stride, train=train) if gate else skip
            x = ManetBlock(channels, self.reduction, self.dtype, name=f"block{stride}")(x, skip, train=train)
        return Output(classifier(self.num_classes, "classifier", 3)(x))
