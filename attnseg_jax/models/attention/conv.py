"""SegNeXt's convolutional attention as a mechanism (Guo et al. 2022, arXiv:2209.08575)."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import ResidualAttention
from attnseg_jax.models.layers.conv_attention import KERNEL, STRIPS, ConvAttention
from attnseg_jax.models.options import option


class ConvolutionalAttention(ResidualAttention):
    """Every pixel times factors that depthwise convolutions of several reaches compute, O(n c (c + k^2 + strips)).

    A strip is a convolution along the row, then one along the column. The normalised map itself is added to the branch,
    as in SegNeXt.

    Attributes as in `ResidualAttention`, and:
      kernel: height and width of the square convolution, odd.
      strips: lengths of the strips, odd.
    """

    kernel: int = option(KERNEL, at_least=1, at_most=255, odd=True)
    strips: tuple[int, ...] = option(STRIPS, at_least=1, at_most=255, odd=True)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the branch; the mean size of its factors is recorded as `conv`, the largest of an image as 1."""
        attention = ConvAttention(self.kernel, self.strips, "conv", self.dtype, name="conv_attention")
        return attention(x)
