"""Gates of channels and of positions: what squeeze-and-excitation and its relatives share."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.conv import Dense, Dtype


def reduced_width(channels: int, reduction: int) -> int:
    """Hidden width of a channel gate: a `reduction`-th of the channels, at least 1.

    >>> reduced_width(64, 16), reduced_width(8, 16)
    (4, 1)
    """
    return max(1, channels // reduction)


def pooled(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    """Mean `[b, 1, 1, c]` over all positions, float32."""
    return x.mean((1, 2), keepdims=True, dtype=jnp.float32)


def channel_length(x: Float[Array, "b h w c"]) -> Float[Array, "b y x c"]:
    """The root of each channel's sum of squares over all positions, `[b, 1, 1, c]` float32."""
    squares = jnp.square(x.astype(jnp.float32)).sum((1, 2), keepdims=True)
    # A channel of zeros has length 0, where the root has no gradient.
    return jnp.sqrt(jnp.maximum(squares, 1e-30))


def gated(x: Float[Array, "b h w c"], gate: Float[Array, "b y x a"]) -> Float[Array, "b h w c"]:
    """`x` times a gate of channels or of positions, in the type of `x`."""
    return x * gate.astype(x.dtype)


class ChannelScores(nn.Module):
    """Two dense layers with a ReLU between them, from one value a channel to one score a channel.

    Attributes:
      reduction: the hidden width is the channels divided by it, at least 1.
      use_bias: adds biases to both layers.
    """

    reduction: int
    use_bias: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b y x c"]:
        """Returns float32 scores."""
        c = x.shape[-1]
        hidden = reduced_width(c, self.reduction)
        x = Dense(hidden, use_bias=self.use_bias, dtype=self.dtype, name="down")(x)
        x = Dense(c, use_bias=self.use_bias, dtype=self.dtype, name="up")(nn.relu(x))
        return x.astype(jnp.float32)
