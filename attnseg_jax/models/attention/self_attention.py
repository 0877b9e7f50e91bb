"""Multi-head dot-product attention (Vaswani et al. 2017) over all positions of a feature map."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from attnseg_jax.errors import UserError, check_least, check_rate, nearest
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers import Dtype, layer_norm
from attnseg_jax.models.maps import DotProductMap
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.resize import resize

_KEY = "config.model.attention.self"
POSITIONS = ("none", "sincos", "learned")


def sincos_positions(height: int, width: int, channels: int) -> Float[np.ndarray, "h w c"]:
    """Fixed two-dimensional sine and cosine positions, a quarter of the channels each for sin y, cos y, sin x, cos x.

    Follows the one-dimensional table of Vaswani et al. 2017 (wavelengths 2 pi to 2 pi * 10000, geometric) along each
    direction. Channels beyond a multiple of four are zero.

    >>> sincos_positions(2, 3, 10).shape
    (2, 3, 10)
    """
    quarter = channels // 4
    frequency = 1.0 / 10000.0 ** (np.arange(quarter) / max(quarter, 1))
    y = np.arange(height)[:, None, None] * frequency
    x = np.arange(width)[None, :, None] * frequency
    parts = [np.broadcast_to(f(t), (height, width, quarter)) for t in (y, x) for f in (np.sin, np.cos)]
    parts.append(np.zeros((height, width, channels - 4 * quarter)))
    return np.concatenate(parts, axis=-1).astype(np.float32)


def head_width(channels: int, heads: int, head_dim: int | None = None, *, key: str = "heads") -> int:
    """Width of a head: `head_dim`, or where that is 0, or None for want of such an option, an equal share of channels.

    Raises:
      UserError: there is no such share; the message calls the number of heads `key`.

    >>> head_width(60, 5), head_width(64, 5, 16)
    (12, 16)
    """
    if heads < 1:
        raise UserError(f"{key}={heads}: attention needs at least 1 head")
    if not head_dim and channels % heads:
        or_width = "" if head_dim is None else ", or set head_dim"
        raise UserError(f"{key}={heads} does not divide {channels} channels: choose a divisor{or_width}")
    return head_dim or channels // heads


def check_dropout(path: str, dropout: float, impl: str) -> None:
    """Refuses what is no rate, and any where `impl` cannot drop attention weights; `path` leads to the keys."""
    check_rate(path, dropout=dropout)
    if dropout and impl not in ("auto", "dense"):
        raise UserError(
            f"{path}.impl={impl!r} cannot drop weights (dropout={dropout}): set dropout=0, or impl to 'dense' or 'auto'"
        )


class MultiHeadAttention(nn.Module):
    """Attention of query tokens over key tokens with learned projections; equals torch's `nn.MultiheadAttention`.

    Attributes:
      heads: number of heads.
      head_dim: width of a head; 0 divides the query's channels by the heads.
      features: channels of the result; 0 keeps the query's.
      dropout: rate at which attention weights are dropped in training; it needs the dense form.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; the softmax is float32.
      impl_key: what an error calls `impl`.
    """

    heads: int
    head_dim: int = 0
    features: int = 0
    dropout: float = 0.0
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    impl_key: str = "impl"

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b n c"],
        key: Float[Array, "b m e"],
        value: Float[Array, "b m f"] | None = None,
        *,
        mask: Bool[Array, "#b #a #n #m"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b n o"], DotProductMap]:
        """Returns the attended tokens and the map of weights; `value` defaults to `key`, `mask` is True where to look.

        Raises:
          UserError: the heads do not divide the channels and `head_dim` is 0.
        """
        channels = query.shape[-1]
        d = head_width(channels, self.heads, self.head_dim)
        value = key if value is None else value

        def project(x: Array, name: str) -> Array:
            y = nn.Dense(self.heads * d, dtype=self.dtype, name=name)(x)
            return y.reshape(*y.shape[:-1], self.heads, d)

        q, k, v = project(query, "query"), project(key, "key"), project(value, "value")
        looked_at = DotProductMap(q, k, mask=mask)
        if train and self.dropout:
            dropped = nn.Dropout(self.dropout, deterministic=False)(looked_at.weights)
            y = jnp.einsum("banm,bmad->bnad", dropped.astype(v.dtype), v)
        else:
            y = attention_ops.dot_product_attention(q, k, v, mask=mask, impl=self.impl, key=self.impl_key)
        y = y.reshape(*y.shape[:2], self.heads * d)
        return nn.Dense(self.features or channels, dtype=self.dtype, name="out")(y), looked_at


class SelfAttention(Attention):
    """Every position of the deepest map attends to all: `x + out(attend(norm(x) + positions))`.

    Attributes:
      heads: number of heads.
      head_dim: width of a head; 0 divides the channels by the heads.
      channels: the map is first projected to this many channels; 0 keeps the backbone's.
      layers: how many attention layers follow one another.
      mlp_ratio: hidden width of a two-layer perceptron after each attention, in channels; 0 leaves it out.
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
            y, looked_at = attend(at, at, y, train=train)
            features = features.with_attention("self", looked_at.replace(query_size=(h, w), key_size=(h, w)))
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
