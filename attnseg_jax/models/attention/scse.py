"""Concurrent gates: one for each channel, from the mean of the map, and one for each position, from its channels."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention, Records
from attnseg_jax.models.attention.se import gated, pooled, reduced
from attnseg_jax.models.features import Features, numbered
from attnseg_jax.models.layers.conv import Conv, Dtype
from attnseg_jax.models.records import GateMap


class SCSEBlock(nn.Module):
    """`x * sigmoid(W2 relu(W1 mean(x))) + x * sigmoid(W3 x)`.

    Attributes:
      reduction: the hidden width of the channel gate is the channels divided by it, at least 1.
      dtype: compute type; mean and sigmoids are float32.
    """

    reduction: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], Records]:
        """Returns the gated map; the gates `[b, 1, 1, c]` and `[b, h, w, 1]` as `scse_channel` and `scse_spatial`."""

        def project(x: Array, features: int, name: str) -> Array:
            return Conv(features, 1, use_bias=True, dtype=self.dtype, name=name)(x)

        c = x.shape[-1]
        hidden = nn.relu(project(pooled(x), reduced(c, self.reduction), "down"))
        channel, spatial = (
            nn.sigmoid(scores.astype(jnp.float32)) for scores in (project(hidden, c, "up"), project(x, 1, "spatial"))
        )
        maps: Records = {"scse_channel": GateMap(channel), "scse_spatial": GateMap(spatial)}
        return gated(x, channel) + gated(x, spatial), maps


class SCSE(Attention):
    """The deepest map times a channel gate plus the same times a spatial gate: O(N c + c^2 / reduction).

    Roy et al. 2018, arXiv:1803.02579; after `SCSEModule` of github.com/qubvel-org/segmentation_models.pytorch.

    Attributes:
      reduction: the hidden width of the channel gate is the channels divided by it, at least 1.
      dtype: compute type; mean and sigmoids are float32.
    """

    reduction: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map gated; gates go to `attention['scse_channel0']`, `scse_spatial0`.

        Raises:
          UserError: the reduction is below 1.
        """
        reduced(features.deepest.shape[-1], self.reduction, key="config.model.attention.scse.reduction")
        x, maps = SCSEBlock(self.reduction, self.dtype, name="block")(features.deepest)
        return features.with_deepest(x).replace(attention=numbered(features.attention, maps))
