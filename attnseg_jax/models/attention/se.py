"""Squeeze and excitation: a gate for each channel, from the mean of the whole map."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError
from attnseg_jax.models.attention.base import Attention, Records
from attnseg_jax.models.features import Features, numbered
from attnseg_jax.models.layers.conv import Dtype
from attnseg_jax.models.records import GateMap


def reduced(channels: int, reduction: int, *, key: str = "reduction") -> int:
    """Hidden width of a channel gate: a `reduction`-th of the channels, at least 1.

    Raises:
      UserError: `reduction` is below 1; the message calls it `key`.

    >>> reduced(64, 16), reduced(8, 16)
    (4, 1)
    """
    if reduction < 1:
        raise UserError(f"{key}={reduction} must be at least 1: the hidden width is the channels divided by it")
    return max(1, channels // reduction)


def pooled(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    """Mean `[b, 1, 1, c]` over all positions, float32."""
    return x.mean((1, 2), keepdims=True, dtype=jnp.float32)


def gated(x: Float[Array, "b h w c"], gate: Float[Array, "b y x a"]) -> Float[Array, "b h w c"]:
    """`x` times a gate of channels or of positions, in the type of `x`."""
    return x * gate.astype(x.dtype)


class ChannelScores(nn.Module):
    """Two dense layers with a rectifier between them, from one value a channel to one score a channel.

    Attributes:
      reduction: the hidden width is the channels divided by it, at least 1.
      use_bias: adds biases to both layers.
      dtype: compute type.
    """

    reduction: int
    use_bias: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b y x c"]:
        """Returns float32 scores."""
        c = x.shape[-1]
        x = nn.Dense(reduced(c, self.reduction), use_bias=self.use_bias, dtype=self.dtype, name="down")(x)
        x = nn.Dense(c, use_bias=self.use_bias, dtype=self.dtype, name="up")(nn.relu(x))
        return x.astype(jnp.float32)


class SqueezeExcitation(nn.Module):
    """`x * sigmoid(W2 relu(W1 mean(x)))`.

    Attributes:
      reduction: the hidden width is the channels divided by it, at least 1.
      dtype: compute type; mean and sigmoid are float32.
    """

    reduction: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], Records]:
        """Returns the gated map and, as `se`, the gate `[b, 1, 1, c]`."""
        gate = nn.sigmoid(ChannelScores(self.reduction, False, self.dtype, name="scores")(pooled(x)))
        return gated(x, gate), {"se": GateMap(gate)}


class SE(Attention):
    """Channels of the deepest map, each times `sigmoid(W2 relu(W1 mean(x)))`: O(N c + c^2 / reduction).

    Squeeze-and-excitation, Hu et al. 2018, arXiv:1709.01507; after github.com/moskomule/senet.pytorch.

    Attributes:
      reduction: the hidden width is the channels divided by it, at least 1.
      dtype: compute type; mean and sigmoid are float32.
    """

    reduction: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map gated; the gate goes to `attention['se0']`.

        Raises:
          UserError: the reduction is below 1.
        """
        reduced(features.deepest.shape[-1], self.reduction, key="config.model.attention.se.reduction")
        x, maps = SqueezeExcitation(self.reduction, self.dtype, name="block")(features.deepest)
        return features.with_deepest(x).replace(attention=numbered(features.attention, maps))
