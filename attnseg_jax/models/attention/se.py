"""Squeeze and excitation: a gate for each channel, from the mean of the whole map."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.gates import ChannelScores, gated, pooled
from attnseg_jax.models.options import option
from attnseg_jax.models.records import GateMap, sow_record


class SE(Attention):
    """Channels of the deepest map, each times `sigmoid(W2 relu(W1 mean(x)))`: O(N c + c^2 / reduction).

    Squeeze-and-excitation, Hu et al. 2018, arXiv:1709.01507; after github.com/moskomule/senet.pytorch. Mean and
    sigmoid are float32.

    Attributes:
      reduction: the hidden width is the channels divided by it, at least 1.
    """

    reduction: int = option(16, at_least=1)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the gated map; the gate `[b, 1, 1, c]` is recorded as `se`."""
        gate = nn.sigmoid(ChannelScores(self.reduction, False, self.dtype, name="scores")(pooled(x)))
        sow_record(self, "se", GateMap(gate))
        return gated(x, gate)
