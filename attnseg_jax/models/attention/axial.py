"""Axial attention with relative positions (Axial-DeepLab, Wang et al. 2020, arXiv:2003.07853)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.attention import head_width
from attnseg_jax.models.layers.conv import BatchNorm, Conv, ConvBN, Dtype
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, sow_record
from attnseg_jax.ops.attention import axial as axial_ops


class AxisAttention(nn.Module):
    """Every pixel attends to its column (or row): `softmax(BN(q.k) + BN(q.r) + BN(k.r))` over values and positions `r`.

    Queries and keys are half as wide as values. The table of positions, one vector for each offset and the same for
    all heads, has the size of the map it is initialised on; on a smaller map it is cropped, on a larger one stretched
    (`attnseg_jax.ops.attention.axial.fit_offsets`).

    Attributes:
      heads: number of heads; the channels of each are even.
      width: attends along the width instead of the height.
      channels: of the result; 0 keeps the map's.
    """

    heads: int
    width: bool = False
    channels: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w o"], AttentionMap]:
        """Returns the attended map and the weights of every pixel."""
        size = x.shape[1], x.shape[2]
        if self.width:
            x = x.swapaxes(1, 2)
        b, h, w, given = x.shape
        c = self.channels or given
        e, d = c // self.heads, c // self.heads // 2
        project = nn.Einsum(
            (1, given, 2 * c),
            "bhwc,nco->bhwo",
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(given**-0.5),
            name="qkv",
        )
        qkv = BatchNorm(dtype=self.dtype, name="bn_qkv")(project(x), train=train)
        q, k, v = jnp.split(qkv.reshape(b, h, w, self.heads, 2 * e), (d, e), axis=-1)
        grid = axial_ops.offset_grid(axial_ops.fit_offsets(self._relative(e, h), h))
        to_query, to_key, to_value = jnp.split(grid, (d, e))
        weights = self._weights(axial_ops.axial_scores(q, k, to_query, to_key), train)
        y = jnp.stack(axial_ops.axial_average(weights, v, to_value), axis=-1).reshape(b, h, w, 2 * c)
        y = BatchNorm(dtype=self.dtype, name="bn_output")(y, train=train).reshape(b, h, w, c, 2).sum(-1)
        weights = weights.transpose((0, 2, 1, 3, 4) if self.width else (0, 2, 3, 1, 4))
        weights = weights.reshape(b, self.heads, h * w, h)
        record = AttentionMap(weights, axial_ops.axial_keys(size, width=self.width), size, size)
        return y.swapaxes(1, 2) if self.width else y, record

    def _weights(self, scores: Array, train: bool) -> Array:
        """Normalises the similarities of every kind and head, and their sum over the keys: `[b, w, a, h, h]`."""
        kinds, b, w, a, h, _ = scores.shape
        scores = scores.transpose(1, 2, 4, 5, 0, 3).reshape(b, w, h * h, kinds * a)
        scores = BatchNorm(name="bn_similarity")(scores, train=train).reshape(b, w, h, h, kinds, a).sum(4)
        return jax.nn.softmax(scores.transpose(0, 1, 4, 2, 3), axis=-1)

    def _relative(self, e: int, size: int) -> Array:
        # Its shape is that of the first map, which a check against this one's would refuse.
        if self.has_variable("params", "relative"):
            return self.get_variable("params", "relative")
        return self.param("relative", nn.initializers.normal(e**-0.5), (2 * e, 2 * size - 1), jnp.float32)


class AxialAttention(Attention):
    """`relu(x + up(relu(width(height(down(x))))))`: along the height, then along the width; O(n (h + w)).

    A block of csrhddlam/axial-deeplab. After it every pixel has seen every other. Its last normalisation starts at 1:
    with the original's 0 no context is learned in 400 steps on the `context` set (mIoU 0.357, with 1 it is 0.980).

    Attributes:
      heads: number of heads; the channels of each are even.
      channels: that the attention acts on; 0 takes half of the map's.
      out_channels: of the result; 0 keeps the map's. Of others `x` goes through a normalised 1x1 convolution first.
    """

    heads: int = option(4, at_least=1)
    channels: int = option(0, at_least=0)
    out_channels: int = option(0, at_least=0)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w o"]:
        """Returns the attended map; weights are recorded as `axial_height` and `axial_width`."""
        channels = self.channels or x.shape[-1] // 2
        if (width := head_width(channels, self.heads)) % 2:
            hint = f"gives each head {width} of {channels} channels, an odd number: change heads or channels"
            raise OptionError("heads", self.heads, hint)
        y = ConvBN(channels, 1, dtype=self.dtype, name="down")(x, train=train)
        for name in ("height", "width"):
            y, record = AxisAttention(self.heads, name == "width", dtype=self.dtype, name=name)(y, train=train)
            sow_record(self, f"axial_{name}", record)
        out = self.out_channels or x.shape[-1]
        y = Conv(out, 1, dtype=self.dtype, name="up")(nn.relu(y))
        y = BatchNorm(dtype=self.dtype, name="bn_up")(y, train=train)
        if out != x.shape[-1]:
            x = ConvBN(out, 1, activation=None, dtype=self.dtype, name="shortcut")(x, train=train)
        return nn.relu(x + y)
