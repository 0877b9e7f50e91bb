"""Shifted-window attention with relative position bias (Swin, Liu et al. 2021, arXiv:2103.14030)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_least
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.attention.self_attention import head_width
from attnseg_jax.models.branches import drop_path, perceptron
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers import Dtype, layer_norm
from attnseg_jax.models.maps import AttentionMap
from attnseg_jax.models.pretrained import Rules
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops import window as window_ops

# torchvision.models.swin_transformer.SwinTransformerBlock: `SwinBlock`.
SWIN: Rules = (
    (r"\brelative_position_bias_table$", "table"),
    (r"\bmlp\.0\.", "mlp_in."),
    (r"\bmlp\.3\.", "mlp_out."),
)
_KEY = "config.model.attention.window"
_EPSILON = 1e-5


class ShiftedWindowAttention(nn.Module):
    """Multi-head attention inside each window, with a learned bias for every offset of query and key.

    As in Swin, the zeros that complete the last windows are keys like others (theirs is the projection's bias), and an
    axis of a single window is not shifted.

    Attributes:
      window: pixels on a side of a window.
      shift: pixels by which the windows are moved down and right.
      heads: number of heads, a divisor of the channels.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; the softmax is float32.
      impl_key: what an error calls `impl`.
    """

    window: int
    shift: int
    heads: int
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    impl_key: str = "impl"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h w c"], AttentionMap]:
        """Returns the attended map and the weights of every pixel."""
        b, h, w, c = x.shape
        size, window = (h, w), self.window
        shift = window_ops.usable_shift(size, window, self.shift)
        windows = window_ops.partition(x.astype(self.dtype), window, shift)
        _, g, s, _ = windows.shape
        qkv = nn.Dense(3 * c, dtype=self.dtype, name="qkv")(windows)
        qkv = qkv.reshape(b * g, s, 3, self.heads, c // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        shape = ((2 * window - 1) ** 2, self.heads)
        table = self.param("table", nn.initializers.truncated_normal(0.02), shape, jnp.float32)
        bias = table[window_ops.relative_index(window)].transpose(2, 0, 1)[None]
        mask = None
        if any(shift):
            mask = window_ops.window_mask(size, window, shift)[None]
            mask = jnp.broadcast_to(mask, (b, g, s, s)).reshape(b * g, 1, s, s)
        y = attention_ops.dot_product_attention(q, k, v, bias=bias, mask=mask, impl=self.impl, key=self.impl_key)
        y = nn.Dense(c, dtype=self.dtype, name="proj")(y.reshape(b, g, s, c))
        weights = attention_ops.attention_weights(q, k, bias=bias, mask=mask)
        weights = weights.reshape(b, g, self.heads, s, s).swapaxes(2, 3).reshape(b, g, s, self.heads * s)
        weights = window_ops.merge(weights, size, window, shift).reshape(b, h * w, self.heads, s).swapaxes(1, 2)
        looked_at = AttentionMap(weights, window_ops.window_keys(size, window, shift), size, size)
        return window_ops.merge(y, size, window, shift), looked_at


class SwinBlock(nn.Module):
    """`x + attend(norm(x))`, then `x + mlp(norm(x))`, the perceptron with exact GELU.

    Attributes:
      window: pixels on a side of a window.
      shift: pixels by which the windows are moved down and right.
      heads: number of heads, a divisor of the channels.
      mlp_ratio: hidden width of the perceptron, in channels.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
      impl_key: what an error calls `impl`.
      drop_path: rate at which a branch is dropped, in training.
    """

    window: int
    shift: int
    heads: int
    mlp_ratio: float = 4.0
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    impl_key: str = "impl"
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], AttentionMap]:
        """Returns the map after attention and perceptron, and the weights of every pixel."""
        attend = ShiftedWindowAttention(
            self.window, self.shift, self.heads, self.impl, self.dtype, self.impl_key, name="attn"
        )
        y, looked_at = attend(layer_norm("norm1", _EPSILON)(x))
        x = x + drop_path(y, self.drop_path, train=train)
        y = layer_norm("norm2", _EPSILON)(x).astype(self.dtype)
        y = perceptron(y, int(x.shape[-1] * self.mlp_ratio), self.dtype)
        return x + drop_path(y, self.drop_path, train=train), looked_at


class WindowAttention(Attention):
    """Every pixel attends to its `window x window` tile, in every second layer to one moved by half; O(n window^2).

    `softmax(q . k / sqrt(d) + bias[offset])` in pre-norm blocks with a perceptron: Swin's blocks (arXiv:2103.14030,
    microsoft/Swin-Transformer).

    Attributes:
      window: pixels on a side of a window; the map it is initialised on has at least as many.
      heads: number of heads.
      channels: the map is first projected to this many channels; 0 keeps the backbone's.
      layers: how many blocks follow one another; the second, fourth, ... are shifted by half a window.
      mlp_ratio: hidden width of a block's perceptron, in channels.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    window: int = 7
    heads: int = 4
    channels: int = 0
    layers: int = 2
    mlp_ratio: float = 4.0
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over; weights go to `attention['window0']` and so on.

        Raises:
          UserError: heads that do not divide the channels; a perceptron without hidden channels; a window larger than
            the map it is initialised on; no layers or negative channels.
        """
        check_least(_KEY, 0, channels=self.channels)
        check_least(_KEY, 1, layers=self.layers)
        x = features.deepest
        if self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="project")(x)
        _, h, w, c = x.shape
        head_width(c, self.heads, key=f"{_KEY}.heads")
        check_least(_KEY, 1 / c, mlp_ratio=self.mlp_ratio)
        # A smaller map later on is padded; from the start it is a mistake.
        if self.window < 1 or (self.is_initializing() and self.window > min(h, w)):
            raise UserError(
                f"{_KEY}.window={self.window} does not fit the map of {h}x{w}: choose 1 to {min(h, w)}, a larger crop "
                "or a backbone of smaller stride"
            )
        for i in range(self.layers):
            shift = self.window // 2 if i % 2 else 0
            block = SwinBlock(
                self.window,
                shift,
                self.heads,
                self.mlp_ratio,
                self.impl,
                self.dtype,
                impl_key=f"{_KEY}.impl",
                name=f"block{i}",
            )
            x, looked_at = block(x)
            features = features.with_attention("window", looked_at)
        return features.with_deepest(x)
