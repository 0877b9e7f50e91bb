"""Concurrent gates: one for each channel, from the mean of the map, and one for each position, from its channels."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.conv import Conv
from attnseg_jax.models.layers.gates import gated, pooled, reduced_width
from attnseg_jax.models.options import option
from attnseg_jax.models.records import GateMap, sow_record


class SCSE(Attention):
    """`x * sigmoid(W2 relu(W1 mean(x))) + x * sigmoid(W3 x)`: O(N c + c^2 / reduction).

    Roy et al. 2018, arXiv:1803.02579; after `SCSEModule` of github.com/qubvel-org/segmentation_models.pytorch. Mean
    and sigmoids are float32.

    Attributes:
      reduction: the hidden width of the channel gate is the channels divided by it, at least 1.
    """

    reduction: int = option(16, at_least=1)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the gated map; the gates `[b, 1, 1, c]` and `[b, h, w, 1]` are `scse_channel` and `scse_spatial`."""

        def project(x: Array, features: int, name: str) -> Array:
            return Conv(features, 1, use_bias=True, dtype=self.dtype, name=name)(x)

        c = x.shape[-1]
        hidden = nn.relu(project(pooled(x), reduced_width(c, self.reduction), "down"))
        channel, spatial = (
            nn.sigmoid(scores.astype(jnp.float32)) for scores in (project(hidden, c, "up"), project(x, 1, "spatial"))
        )
        sow_record(self, "scse_channel", GateMap(channel))
        sow_record(self, "scse_spatial", GateMap(spatial))
        return gated(x, channel) + gated(x, spatial)
