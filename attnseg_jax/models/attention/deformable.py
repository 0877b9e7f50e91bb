"""Deformable attention (Zhu et al. 2021, arXiv:2010.04159) to a few points of a feature map."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import ResidualAttention
from attnseg_jax.models.layers.attention import sine_positions
from attnseg_jax.models.layers.deformable import DeformableAttention, centres
from attnseg_jax.models.options import option


class Deformable(ResidualAttention):
    """Every position of the deepest map looks at a few points that it chooses: the sum of weight times value there.

    `x + out(sum over p of softmax(w(z))_p * value(norm(x))[at + offset(z)_p])`, z the normalised map with positions and
    values bilinear between pixels; O(n p c + n c^2). The layer is that of Deformable DETR and of Mask2Former's pixel
    decoder, for a single map; `mlp_ratio=4` and `layers=6` come near the latter.

    Attributes as in `ResidualAttention`, and:
      heads: number of heads, a divisor of the channels.
      points: that each head of a position looks at.
      positions: `none` or `sine` (fixed, any size), for offsets and weights; values have none.
    """

    heads: int = option(8, at_least=1)
    points: int = option(4, at_least=1, at_most=1024)
    positions: str = option("sine", choices=("none", "sine"))

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns what every position gathers; its weights are recorded as `deformable`."""
        b, h, w, c = x.shape
        values = x.reshape(b, h * w, c)
        query = values
        if self.positions == "sine":
            query = query + jnp.asarray(sine_positions(h, w, c), self.dtype).reshape(1, h * w, c)
        attention = DeformableAttention(self.heads, self.points, self.dtype, "deformable", name="points")
        y = attention(query, values, centres([(h, w)]), ((h, w),), query_size=(h, w))
        return y.reshape(b, h, w, c)
