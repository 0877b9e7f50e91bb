"""Multi-head dot-product attention (Vaswani et al. 2017) over all positions of a feature map."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from attnseg_jax.errors import UserError, check_least, nearest
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.attention import MultiHeadAttention, check_dropout, head_width, sincos_positions
from attnseg_jax.models.layers.conv import Dtype, layer_norm
from attnseg_jax.ops.resize import resize

_KEY = "config.model.attention.self"
POSITIONS = ("none", "sincos", "learned")


class SelfAttention(Attention):
    """Every position of the deepest map attends to all: `x + out(attend(norm(x) + positions))`.

    Attributes:
      heads: number of heads.
      head_dim: width of a head; 0 divides the channels by the heads.
      channels: the map is first projected to this many channels; 0 keeps the backbone's.
      layers: how many attention layers follow one another.
      mlp_ratio: hidden width of a two-layer MLP after each attention, in channels; 0 leaves it out.
      positions: `none`, `sincos` (fixed, any size) or `learned` (a table, resampled to the map's size).
      position_size: height and width of the learned table.
      norm: layer normalisation before attention.
      dropout: rate at which attention weights are dropped in training; it needs the dense form.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    heads: int = 2
    head_dim: int = 0
    channels: int = 0
    layers: int = 1
    mlp_ratio: float = 0.0
    positions: str = "sincos"
    position_size: tuple[int, int] = (16, 24)
    norm: bool = True
    dropout: float = 0.0
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over; maps go to `attention['self0']` and so on.

        Raises:
          UserError: an option out of its range, or heads that do not divide the channels.
        """
        check_least(_KEY, 0, head_dim=self.head_dim, channels=self.channels)
        check_least(_KEY, 1, layers=self.layers)
        x = features.deepest
        if self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="project")(x)
        b, h, w, c = x.shape
        head_dim = head_width(c, self.heads, self.head_dim, key=f"{_KEY}.heads")
        check_least(_KEY, 1 / c if self.mlp_ratio > 0 else 0, mlp_ratio=self.mlp_ratio)
        check_dropout(_KEY, self.dropout, self.impl)
        positions = self._positions(h, w, c)
        tokens = x.reshape(b, h * w, c)
        for i in range(self.layers):
            y = layer_norm(f"norm{i}")(tokens) if self.norm else tokens
            y = y.astype(self.dtype)
            at = y if positions is None else y + positions
            attend = MultiHeadAttention(
                self.heads,
                head_dim,
                dropout=self.dropout,
                impl=self.impl,
                dtype=self.dtype,
                impl_key=f"{_KEY}.impl",
                name=f"attention{i}",
            )
            y, record = attend(at, at, y, train=train)
            features = features.with_attention("self", record.replace(query_size=(h, w), key_size=(h, w)))
            tokens = tokens + y
            if self.mlp_ratio:
                y = layer_norm(f"mlp_norm{i}")(tokens).astype(self.dtype)
                y = nn.Dense(int(c * self.mlp_ratio), dtype=self.dtype, name=f"mlp_in{i}")(y)
                tokens = tokens + nn.Dense(c, dtype=self.dtype, name=f"mlp_out{i}")(nn.gelu(y, approximate=False))
        return features.with_deepest(tokens.reshape(b, h, w, c))

    def _positions(self, h: int, w: int, c: int) -> Array | None:
        if self.positions == "none":
            return None
        if self.positions == "sincos":
            table = jnp.asarray(sincos_positions(h, w, c))[None]
        elif self.positions == "learned":
            if len(self.position_size) != 2 or min(self.position_size) < 1:
                raise UserError(
                    f"{_KEY}.position_size={self.position_size} must be a height and a width, two numbers from 1 on"
                )
            table = self.param("positions", nn.initializers.normal(0.02), (1, *self.position_size, c), jnp.float32)
            if table.shape[1:3] != (h, w):
                table = resize(table, (h, w), method="bicubic")
        else:
            raise UserError(f"{_KEY}.positions={self.positions!r} is unknown: {nearest(self.positions, POSITIONS)}")
        return jax.lax.reshape(table, (1, h * w, c)).astype(self.dtype)
