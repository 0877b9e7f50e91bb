"""Spatial-reduction attention (Xie et al. 2021, arXiv:2105.15203), after transformers' `modeling_segformer.py`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_least
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.attention import MultiHeadAttention, check_dropout, head_width
from attnseg_jax.models.layers.conv import Conv, Dtype, layer_norm
from attnseg_jax.models.records import DotProductMap

_KEY = "config.model.attention.efficient"


class EfficientAttention(nn.Module):
    """Multi-head attention of every position over keys and values that a strided convolution has made fewer.

    Attributes:
      heads: number of heads; it must divide the channels.
      reduction: kernel and stride of the convolution; 1 leaves it out. Rows and columns that do not fill a kernel at
        the end are no keys.
      dropout: rate at which attention weights are dropped in training; it needs the dense form.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
      impl_key: what an error calls `impl`.
    """

    heads: int = 2
    reduction: int = 4
    dropout: float = 0.0
    impl: str = "auto"
    dtype: Dtype = jnp.float32
    impl_key: str = f"{_KEY}.impl"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], DotProductMap]:
        """Returns the result and who attends to what.

        Raises:
          UserError: heads that do not divide the channels, or a reduction larger than the map.
        """
        b, h, w, c = x.shape
        head_dim = head_width(c, self.heads, key=f"{_KEY}.heads")
        if not 1 <= self.reduction <= min(h, w):
            raise UserError(
                f"{_KEY}.reduction={self.reduction} does not fit a map of {h}x{w} positions: "
                f"choose 1 to {min(h, w)}, or give larger images"
            )
        reduced = x
        if self.reduction > 1:
            r = self.reduction
            reduced = Conv(c, r, r, padding=0, use_bias=True, dtype=self.dtype, name="reduce")(x)
            reduced = layer_norm("norm", 1e-5)(reduced).astype(self.dtype)
        key_size = reduced.shape[1:3]
        attend = MultiHeadAttention(
            self.heads,
            head_dim,
            dropout=self.dropout,
            impl=self.impl,
            dtype=self.dtype,
            impl_key=self.impl_key,
            name="attention",
        )
        y, record = attend(x.reshape(b, h * w, c), reduced.reshape(b, -1, c), train=train)
        return y.reshape(b, h, w, c), record.replace(query_size=(h, w), key_size=key_size)


class Efficient(Attention):
    """Every position of the deepest map attends to a reduced map: `x + attend(norm(x), reduce(norm(x)))`.

    O(n^2 / reduction^2 c) time. Xie et al. 2021 (arXiv:2105.15203); github.com/NVlabs/SegFormer.

    Attributes:
      heads: number of heads.
      reduction: the reduced map has one position for this many rows and columns; 1 is plain self-attention.
      channels: the map is first projected to this many channels; 0 keeps the backbone's.
      layers: how many attention layers follow one another.
      norm: layer normalisation before attention.
      dropout: rate at which attention weights are dropped in training; it needs the dense form.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    heads: int = 2
    reduction: int = 4
    channels: int = 0
    layers: int = 1
    norm: bool = True
    dropout: float = 0.0
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over; maps go to `attention['efficient0']` and so on.

        Raises:
          UserError: as `EfficientAttention`, an option out of its range, and where weights are to be dropped in a form
            that has none.
        """
        check_dropout(_KEY, self.dropout, self.impl)
        check_least(_KEY, 1, layers=self.layers)
        check_least(_KEY, 0, channels=self.channels)
        x = features.deepest
        if self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="project")(x)
        for i in range(self.layers):
            y = layer_norm(f"norm{i}")(x) if self.norm else x
            attend = EfficientAttention(
                self.heads, self.reduction, self.dropout, self.impl, self.dtype, name=f"attention{i}"
            )
            y, record = attend(y.astype(self.dtype), train=train)
            features = features.with_attention("efficient", record)
            x = x + y
        return features.with_deepest(x)
