"""Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762) of tokens and of maps, and fixed positions."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.layers.conv import Conv, Dense, Dtype, layer_norm
from attnseg_jax.models.records import DotProductMap, Size, sow_record
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.symbolic import any_below, numpy_of


def sincos_positions(height: int, width: int, channels: int) -> Float[np.ndarray, "h w c"]:
    """Fixed two-dimensional sine and cosine positions, a quarter of the channels each for sin y, cos y, sin x, cos x.

    Follows the one-dimensional table of Vaswani et al. 2017 (wavelengths 2 pi to 2 pi * 10000, geometric) along each
    direction. Channels beyond a multiple of four are zero.

    >>> sincos_positions(2, 3, 10).shape
    (2, 3, 10)
    """
    quarter = channels // 4
    frequency = 1.0 / 10000.0 ** (np.arange(quarter) / max(quarter, 1)).reshape(1, 1, quarter)
    # The program itself has to compute those of a map whose size is not known.
    xp = numpy_of(height, width)
    y = xp.arange(height)[:, None, None] * frequency
    x = xp.arange(width)[None, :, None] * frequency
    parts = [xp.broadcast_to(f(t), (height, width, quarter)) for t in (y, x) for f in (xp.sin, xp.cos)]
    parts.append(xp.zeros((height, width, channels - 4 * quarter)))
    return xp.concatenate(parts, axis=-1).astype(np.float32)


def sine_positions(height: int, width: int, channels: int) -> Float[np.ndarray, "h w c"]:
    """Fixed two-dimensional positions as fractions of the map, half of the channels each for y and x.

    Follows `PositionEmbeddingSine` of DETR (Carion et al. 2020, arXiv:2005.12872), normalised: the last row and column
    are at 2 pi whatever the map's size, and sines and cosines of one wavelength stand side by side.

    >>> sine_positions(2, 3, 8).shape
    (2, 3, 8)
    """
    half = channels // 2
    frequency = 1.0 / 10000.0 ** (np.arange(half) // 2 * 2 / max(half, 1)).reshape(1, 1, half)
    phase = (np.arange(half) % 2 * (np.pi / 2)).reshape(1, 1, half)  # a cosine is a sine a quarter further
    xp = numpy_of(height, width)
    y = (xp.arange(height)[:, None, None] + 1) * (2 * np.pi / (height + 1e-6))
    x = (xp.arange(width)[None, :, None] + 1) * (2 * np.pi / (width + 1e-6))
    parts = [xp.broadcast_to(xp.sin(t * frequency + phase), (height, width, half)) for t in (y, x)]
    parts.append(xp.zeros((height, width, channels - 2 * half)))
    return xp.concatenate(parts, axis=-1).astype(np.float32)


def head_width(channels: int, heads: int, head_dim: int | None = None) -> int:
    """Width of a head: `head_dim`, or where that is 0, or None for want of such an option, an equal share of channels.

    Raises:
      OptionError: there is no such share.

    >>> head_width(60, 5), head_width(64, 5, 16)
    (12, 16)
    """
    if heads < 1:
        raise OptionError("heads", heads, "must be at least 1")
    if not head_dim and channels % heads:
        or_width = "" if head_dim is None else ", or set head_dim"
        raise OptionError("heads", heads, f"does not divide {channels} channels: choose a divisor{or_width}")
    return head_dim or channels // heads


def multi_head(
    query: Float[Array, "b n c"],
    key: Float[Array, "b m e"],
    value: Float[Array, "b m f"] | None = None,
    *,
    heads: int,
    head_dim: int | None = None,
    mask: Bool[Array, "#b #a #n #m"] | None = None,
    tail_mask: Bool[Array, "#b #a t #m"] | None = None,
    rotate: Callable[[Array], Array] | None = None,
    key_bias: bool = True,
    dropout: float = 0.0,
    impl: str = "auto",
    dtype: Dtype = jnp.float32,
    train: bool = False,
) -> tuple[Float[Array, "b n o"], DotProductMap]:
    """Attention of query tokens over key tokens with learned projections; equals torch's `nn.MultiheadAttention`.

    Called in a compact method, whose module gets the projections `query`, `key`, `value` and `out`.

    Args:
      query: tokens that attend.
      key: tokens that are attended to.
      value: what is averaged; by default `key`.
      heads: number of heads.
      head_dim: width of a head; 0, or None for want of such an option, divides the query's channels by the heads.
      mask: True where a query may look.
      tail_mask: likewise, of the last queries alone: the others look everywhere, without a mask of their own.
      rotate: applied to the heads of queries and of keys, `[b, n, a, d]`, such as `ops.rope.rotated`.
      key_bias: whether the projection of the keys has a bias.
      dropout: rate at which attention weights are dropped in training; it needs the dense form.
      train: whether weights are dropped.

    Returns:
      The attended tokens, and the map of weights, of the last queries alone where they have a mask of their own; its
      sizes the caller knows.

    Raises:
      OptionError: heads that do not divide the channels, without a `head_dim`; an `impl` that cannot serve, or drop.
    """
    channels = query.shape[-1]
    d = head_width(channels, heads, head_dim)
    if dropout and impl not in ("auto", "dense"):
        hint = f"cannot drop weights (dropout={dropout}): set dropout=0, or impl to 'dense' or 'auto'"
        raise OptionError("impl", impl, hint)
    value = key if value is None else value

    def project(x: Array, name: str) -> Array:
        y = Dense(heads * d, use_bias=key_bias or name != "key", dtype=dtype, name=name)(x)
        return y.reshape(*y.shape[:-1], heads, d)

    def attend(q: Array, mask: Array | None) -> Array:
        return attention_ops.dot_product_attention(q, k, v, mask=mask, impl=impl)

    q, k, v = project(query, "query"), project(key, "key"), project(value, "value")
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    record = DotProductMap(q, k, mask=mask)
    if train and dropout:
        dropped = nn.Dropout(dropout, deterministic=False)(record.weights)
        y = jnp.einsum("banm,bmad->bnad", dropped.astype(v.dtype), v)
    elif tail_mask is not None:
        first = q.shape[1] - tail_mask.shape[2]
        record = DotProductMap(q[:, first:], k, mask=tail_mask)
        y = jnp.concatenate([attend(q[:, :first], mask), attend(q[:, first:], tail_mask)], axis=1)
    else:
        y = attend(q, mask)
    y = y.reshape(*y.shape[:2], heads * d)
    return Dense(channels, dtype=dtype, name="out")(y), record


class MultiHeadAttention(nn.Module):
    """`multi_head` as a module, with the fields and arguments of that name.

    Attributes:
      record: name that the weights are recorded under; "" records none.
    """

    heads: int
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    record: str = ""

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b n c"],
        key: Float[Array, "b m e"],
        value: Float[Array, "b m f"] | None = None,
        *,
        mask: Bool[Array, "#b #a #n #m"] | None = None,
        query_size: Size = None,
        key_size: Size = None,
    ) -> Float[Array, "b n o"]:
        """Returns the attended tokens; the sizes are those of the maps that the tokens are of, for the record."""
        y, record = multi_head(query, key, value, heads=self.heads, mask=mask, impl=self.impl, dtype=self.dtype)
        sow_record(self, self.record, record.replace(query_size=query_size, key_size=key_size))
        return y


def reduced_multi_head(
    x: Float[Array, "b h w c"],
    *,
    heads: int,
    reduction: int,
    dtype: Dtype = jnp.float32,
    **options: Any,
) -> tuple[Float[Array, "b h w c"], DotProductMap]:
    """Spatial-reduction attention: every position over keys and values that a strided convolution made fewer.

    Xie et al. 2021 (arXiv:2105.15203), after transformers' `modeling_segformer.py`. Called in a compact method, whose
    module gets the convolution `reduce`, its `norm` and the projections of `multi_head`.

    Args:
      x: the map.
      heads: number of heads; it must divide the channels.
      reduction: kernel and stride of the convolution; 1 leaves it out. Rows and columns that do not fill a kernel at
        the end are no keys.
      dtype: compute type.
      options: `dropout`, `impl` and `train` of `multi_head`.

    Returns:
      The attended map, and who attends to what.

    Raises:
      OptionError: as in `multi_head`; a reduction larger than the map.
    """
    b, h, w, c = x.shape
    if reduction < 1 or any_below(reduction, h, w):
        hint = f"does not fit a map of {h}x{w} positions: choose 1 to {min(h, w)}, or give larger images"
        raise OptionError("reduction", reduction, hint)
    reduced = x
    if reduction > 1:
        reduced = Conv(c, reduction, reduction, padding=0, use_bias=True, dtype=dtype, name="reduce")(x)
        reduced = layer_norm("norm", 1e-5)(reduced).astype(dtype)
    query, key = x.reshape(b, h * w, c), reduced.reshape(b, -1, c)
    y, record = multi_head(query, key, heads=heads, dtype=dtype, **options)
    return y.reshape(b, h, w, c), record.replace(query_size=(h, w), key_size=reduced.shape[1:3])
