"""EfficientViT's multi-scale linear attention as a mechanism (Cai et al. 2023, arXiv:2205.14756)."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import ResidualAttention
from attnseg_jax.models.layers.lite_mla import HEAD_DIM, SCALES, LiteMLA
from attnseg_jax.models.options import option


class LiteMultiScaleAttention(ResidualAttention):
    """Every position attends to all, at several scales: `x + bn(out(relu(q) (relu(k)^T v)))`, O(n c (c + d)).

    Attributes as in `ResidualAttention`, without its normalisation unless asked for, and:
      head_dim: width d of a head; there are as many as fit into the channels. 0 takes 16, or a map of fewer whole.
      scales: sizes of the depthwise convolutions that queries, keys and values go through, beside themselves; odd.
    """

    norm: bool = False
    head_dim: int = option(0, at_least=0)
    scales: tuple[int, ...] = option(SCALES, at_least=1, at_most=255, odd=True)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns what every position gathers; the implied weights are recorded as `litemla`, scale by scale."""
        attention = LiteMLA(
            self.head_dim or min(HEAD_DIM, x.shape[-1]), self.scales, "litemla", self.dtype, name="lite_mla"
        )
        return attention(x, train=train)
