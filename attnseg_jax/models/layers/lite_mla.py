"""EfficientViT's linear attention of several scales (Cai et al. 2023, arXiv:2205.14756), after timm's module."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype, he_normal_depthwise
from attnseg_jax.models.records import DotProductMap, sow_record
from attnseg_jax.ops.attention import linear as linear_ops

HEAD_DIM = 16
SCALES = (5,)


class LiteMLA(nn.Module):
    """Linear attention with ReLU as its kernel, of every pixel and of what depthwise convolutions gather around it.

    Queries, keys and values of a scale are those of the map, convolved depthwise and mixed inside each head; the heads
    of all scales are set beside each other and projected.

    Attributes:
      head_dim: width of a head; there are as many as fit into the channels.
      scales: sizes of the depthwise convolutions, odd.
      record: name that the weights are recorded under; "" records none.
    """

    head_dim: int = HEAD_DIM
    scales: tuple[int, ...] = SCALES
    record: str = ""
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns what every pixel gathers.

        Raises:
          OptionError: heads wider than the map.
        """
        b, h, w, c = x.shape
        heads = c // self.head_dim
        if not heads:
            raise OptionError("head_dim", self.head_dim, f"is wider than the map: choose at most {c}")
        width = 3 * heads * self.head_dim
        qkv = Conv(width, 1, dtype=self.dtype, name="qkv")(x)
        scales = [qkv]
        for n in self.scales:
            options = {"dtype": self.dtype, "kernel_init": he_normal_depthwise}
            around = Conv(width, n, groups=width, **options, name=f"around{n}")(qkv)
            scales.append(Conv(width, 1, groups=3 * heads, **options, name=f"mix{n}")(around))
        # Every head has its query, key and value side by side.
        parts = jnp.concatenate(scales, axis=-1).reshape(b, h * w, len(scales) * heads, 3, self.head_dim)
        q, k, v = (parts[:, :, :, i] for i in range(3))

        def record() -> DotProductMap:
            factors = linear_ops.linear_factors(q, k, form="relu")
            return DotProductMap(*factors, scale=1.0, softmax=False, query_size=(h, w), key_size=(h, w))

        sow_record(self, self.record, record)
        y = linear_ops.linear_attention(q, k, v, form="relu").reshape(b, h, w, -1)
        return ConvBN(c, 1, activation=None, dtype=self.dtype, name="out")(y, train=train)
