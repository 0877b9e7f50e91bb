"""Shifted-window attention with relative position bias (Swin, Liu et al. 2021, arXiv:2103.14030)."""

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import UserError, check_least
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.attention import head_width
from attnseg_jax.models.layers.conv import Dtype
from attnseg_jax.models.layers.swin import SwinBlock

_KEY = "config.model.attention.window"
_EPSILON = 1e-5


class WindowAttention(Attention):
    """Every pixel attends to its `window x window` tile, in every second layer to one moved by half; O(n window^2).

    `softmax(q . k / sqrt(d) + bias[offset])` in pre-norm blocks with a MLP: Swin's blocks (arXiv:2103.14030,
    microsoft/Swin-Transformer).

    Attributes:
      window: pixels on a side of a window; the map it is initialised on has at least as many.
      heads: number of heads.
      channels: the map is first projected to this many channels; 0 keeps the backbone's.
      layers: how many blocks follow one another; the second, fourth, ... are shifted by half a window.
      mlp_ratio: hidden width of a block's MLP, in channels.
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
          UserError: heads that do not divide the channels; a MLP without hidden channels; a window larger than
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
            x, record = block(x)
            features = features.with_attention("window", record)
        return features.with_deepest(x)
