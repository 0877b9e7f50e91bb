"""Context encoding (Zhang et al. 2018, arXiv:1803.08904; github.com/zhanghang1989/PyTorch-Encoding)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import BatchNorm, ConvBN, Dense
from attnseg_jax.models.layers.gates import gated
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, GateMap, sow_record
from attnseg_jax.ops.attention.encnet import encode


class Encoding(nn.Module):
    """The encoding layer with learned codewords and scales; both start uniform, the scales between -1 and 0."""

    codewords: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b k c"], Float[Array, "b n k"]]:
        """Returns float32 sums of residuals and the assignments of the positions, see `ops.attention.encnet.encode`."""
        b, h, w, c = x.shape
        limit = (self.codewords * c) ** -0.5

        def uniform(low: float, high: float):
            return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, low, high)

        codewords = self.param("codewords", uniform(-limit, limit), (self.codewords, c))
        scale = self.param("scale", uniform(-1.0, 0.0), (self.codewords,))
        return encode(x.reshape(b, h * w, c), codewords, scale)


class ContextEncoding(Attention):
    """Channels weighed by what the whole image holds: `relu(x + x * sigmoid(linear(encoding(x))))`, O(n k c).

    After a 3x3 convolution, as in EncNet. The encoding, normalised over its codewords and averaged over them, also
    predicts which classes the image shows (the semantic-encoding loss). It is a sum over positions: maps of another
    size than in training shift it.

    Attributes:
      channels: of the 3x3 convolution (512 in the original); 0 keeps the map's, but takes at most 512.
      codewords: number of codewords.
    """

    channels: int = option(0, at_least=0)
    codewords: int = option(32, at_least=1, at_most=4096)

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map weighed, and `presence['encnet']`.

        The record `encnet` assigns pixels to codewords, `encnet_gate` is the weight of each channel.
        """
        x = features.deepest
        x = ConvBN(lead_width(self.channels, x), dtype=self.dtype, name="lead")(x, train=train)
        b, h, w, c = x.shape
        projected = ConvBN(c, 1, dtype=self.dtype, name="project")(x, train=train)
        encoded, weights = Encoding(self.codewords, name="encoding")(projected)
        # Statistics for each codeword, over images and channels.
        encoded = BatchNorm(name="bn")(jnp.swapaxes(encoded, 1, 2)[:, None], train=train)
        context = nn.relu(encoded).mean(axis=(1, 3))
        gate = nn.sigmoid(Dense(c, dtype=jnp.float32, name="gate")(context)).reshape(b, 1, 1, c)
        presence = Dense(self.num_classes, dtype=jnp.float32, name="presence")(context)
        sow_record(self, "encnet", AttentionMap(weights[:, None], query_size=(h, w)))
        sow_record(self, "encnet_gate", GateMap(gate))
        features = features.with_presence("encnet", presence)
        return features.with_deepest(nn.relu(x + gated(x, gate)))
