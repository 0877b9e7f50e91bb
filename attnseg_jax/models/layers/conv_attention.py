"""Convolutional attention (Guo et al. 2022, SegNeXt, arXiv:2209.08575), after mmsegmentation's `mscan.py`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.conv import Conv, Dtype, he_normal_depthwise
from attnseg_jax.models.records import GateMap, sow_record
from attnseg_jax.ops.gelu import gelu

KERNEL = 5
STRIPS = (7, 11, 21)


class ConvAttention(nn.Module):
    """`x + out(u * mix(conv(u) + strips))` with `u = gelu(in(x))`: what a map is multiplied by, convolutions compute.

    A strip is a depthwise convolution of one row, then one of one column, of what the square one gave; `mix` is 1x1.
    No softmax and no sigmoid bound the factors.

    Attributes:
      kernel: height and width of the square depthwise convolution, odd.
      strips: lengths of the strips, odd.
      record: name that the factors are recorded under; "" records none.
    """

    kernel: int = KERNEL
    strips: tuple[int, ...] = STRIPS
    record: str = ""
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the map with what its factors let through; these are recorded as shares of the image's largest."""
        u = gelu(self._pointwise("in", x))
        square = self._depthwise(self.kernel, "square", u)
        total = square
        for n in self.strips:
            total = total + self._depthwise((n, 1), f"column{n}", self._depthwise((1, n), f"row{n}", square))
        factors = self._pointwise("mix", total)

        def record() -> GateMap:
            size = jnp.abs(factors.astype(jnp.float32)).mean(axis=-1, keepdims=True)
            return GateMap(size / (1e-12 + size.max(axis=(1, 2), keepdims=True)))

        sow_record(self, self.record, record)
        return x + self._pointwise("out", u * factors)

    def _pointwise(self, name: str, x: Array) -> Array:
        return Conv(x.shape[-1], 1, use_bias=True, dtype=self.dtype, name=name)(x)

    def _depthwise(self, size: int | tuple[int, int], name: str, x: Array) -> Array:
        c = x.shape[-1]
        options = {"groups": c, "use_bias": True, "dtype": self.dtype, "kernel_init": he_normal_depthwise}
        return Conv(c, size, **options, name=name)(x)
