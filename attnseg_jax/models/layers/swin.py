"""Swin's block (Liu et al. 2021, arXiv:2103.14030): attention in shifted windows with relative position bias."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.conv import Dense, Dtype, layer_norm
from attnseg_jax.models.layers.residual import drop_path, mlp, mlp_width
from attnseg_jax.models.records import AttentionMap, sow_record
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention import window as window_ops

_EPSILON = 1e-5


class ShiftedWindowAttention(nn.Module):
    """Multi-head attention inside each window, with a learned bias for every offset of query and key.

    As in Swin, the zeros that complete the last windows are keys like others (theirs is the projection's bias), and an
    axis of a single window is not shifted unless `always_shift` says so.

    Attributes:
      window: pixels on a side of a window.
      shift: pixels by which the windows are moved down and right.
      heads: number of heads, a divisor of the channels.
      record: name that the weights of every pixel are recorded under; "" records none.
    """

    window: int
    shift: int
    heads: int
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    record: str = ""
    always_shift: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the attended map."""
        b, h, w, c = x.shape
        size, window = (h, w), self.window
        shift = (self.shift,) * 2 if self.always_shift else window_ops.usable_shift(size, window, self.shift)
        windows = window_ops.partition(x.astype(self.dtype), window, shift)
        _, g, s, _ = windows.shape
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv")(windows)
        qkv = qkv.reshape(b * g, s, 3, self.heads, c // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        shape = ((2 * window - 1) ** 2, self.heads)
        table = self.param("table", nn.initializers.truncated_normal(0.02), shape, jnp.float32)
        bias = table[window_ops.relative_index(window)].transpose(2, 0, 1)[None]
        mask = None
        if any(shift):
            mask = window_ops.window_mask(size, window, shift)[None]
            mask = jnp.broadcast_to(mask, (b, g, s, s)).reshape(b * g, 1, s, s)
        y = attention_ops.dot_product_attention(q, k, v, bias=bias, mask=mask, impl=self.impl)
        y = Dense(c, dtype=self.dtype, name="proj")(y.reshape(b, g, s, c))

        def record() -> AttentionMap:
            weights = attention_ops.attention_weights(q, k, bias=bias, mask=mask)
            weights = weights.reshape(b, g, self.heads, s, s).swapaxes(2, 3).reshape(b, g, s, self.heads * s)
            weights = window_ops.merge(weights, size, window, shift).reshape(b, h * w, self.heads, s).swapaxes(1, 2)
            return AttentionMap(weights, window_ops.window_keys(size, window, shift), size, size)

        sow_record(self, self.record, record)
        return window_ops.merge(y, size, window, shift)


class SwinBlock(nn.Module):
    """`x + attend(norm(x))`, then `x + mlp(norm(x))`, the MLP with exact GELU.

    Attributes as in `ShiftedWindowAttention`, and:
      mlp_ratio: hidden width of the MLP, in channels.
      drop_path: rate at which a branch is dropped, in training.
    """

    window: int
    shift: int
    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    record: str = ""
    always_shift: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the map after attention and MLP."""
        attend = ShiftedWindowAttention(
            self.window, self.shift, self.heads, self.impl, self.dtype, self.record, self.always_shift, name="attn"
        )
        y = attend(layer_norm("norm1", _EPSILON)(x))
        x = x + drop_path(y, self.drop_path, train=train)
        y = layer_norm("norm2", _EPSILON)(x).astype(self.dtype)
        y = mlp(y, mlp_width(x.shape[-1], self.mlp_ratio), self.dtype)
        return x + drop_path(y, self.drop_path, train=train)
