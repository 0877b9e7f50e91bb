"""Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762) over all positions of a feature map."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import ResidualAttention
from attnseg_jax.models.layers.attention import multi_head, sincos_positions
from attnseg_jax.models.options import option
from attnseg_jax.models.records import sow_record
from attnseg_jax.ops.resize import resize


class SelfAttention(ResidualAttention):
    """Every position of the deepest map attends to all: `x + out(attend(norm(x) + positions))`; O(n^2 c).

    Attributes as in `ResidualAttention`, and:
      heads: number of heads.
      head_dim: width of a head; 0 divides the channels by the heads.
      positions: `none`, `sincos` (fixed, any size) or `learned` (a table for each layer, resampled to the map's size).
      position_size: height and width of the learned table.
      dropout: rate at which attention weights are dropped in training; it needs the dense form.
    """

    heads: int = option(2, at_least=1)
    head_dim: int = option(0, at_least=0)
    positions: str = option("sincos", choices=("none", "sincos", "learned"))
    position_size: tuple[int, int] = option((16, 24), at_least=1, at_most=1024, lengths=(2,))
    dropout: float = option(0.0, at_least=0, below=1)
    impl: str = "auto"

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns what every position gathers; its weights are recorded as `self`."""
        b, h, w, c = x.shape
        value = x.reshape(b, h * w, c)
        tokens = value + self._positions(h, w, c) if self.positions != "none" else value
        options = {name: getattr(self, name) for name in ("heads", "head_dim", "dropout", "impl", "dtype")}
        y, record = multi_head(tokens, tokens, value, train=train, **options)
        sow_record(self, "self", record.replace(query_size=(h, w), key_size=(h, w)))
        return y.reshape(b, h, w, c)

    def _positions(self, h: int, w: int, c: int) -> Array:
        if self.positions == "sincos":
            table = jnp.asarray(sincos_positions(h, w, c))[None]
        else:
            table = self.param("positions", nn.initializers.normal(0.02), (1, *self.position_size, c), jnp.float32)
            if table.shape[1:3] != (h, w):
                table = resize(table, (h, w), method="bicubic")
        return jax.lax.reshape(table, (1, h * w, c)).astype(self.dtype)
