"""Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762) of tokens, and fixed positions."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from attnseg_jax.errors import UserError, check_rate
from attnseg_jax.models.layers.conv import Dtype
from attnseg_jax.models.records import DotProductMap
from attnseg_jax.ops import attention as attention_ops


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
        record = DotProductMap(q, k, mask=mask)
        if train and self.dropout:
            dropped = nn.Dropout(self.dropout, deterministic=False)(record.weights)
            y = jnp.einsum("banm,bmad->bnad", dropped.astype(v.dtype), v)
        else:
            y = attention_ops.dot_product_attention(q, k, v, mask=mask, impl=self.impl)
        y = y.reshape(*y.shape[:2], self.heads * d)
        return nn.Dense(self.features or channels, dtype=self.dtype, name="out")(y), record
