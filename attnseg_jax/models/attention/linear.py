"""Linear attention: every position attends to all, in time and memory linear in their number."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import ResidualAttention
from attnseg_jax.models.layers.attention import head_width
from attnseg_jax.models.layers.conv import Dense
from attnseg_jax.models.options import option
from attnseg_jax.models.records import DotProductMap, sow_record
from attnseg_jax.ops.attention import linear as linear_ops


class LinearAttention(ResidualAttention):
    """Every position of the deepest map attends to all: `x + out(factor(q) (factor(k)^T v))`, O(n d^2).

    Katharopoulos et al. 2020, arXiv:2006.16236 (github.com/idiap/fast-transformers) for `elu`; Shen et al. 2021,
    arXiv:1812.01243 (github.com/cmsflash/efficient-attention) for `softmax`; Cai et al. 2023, arXiv:2205.14756 for
    `relu`.

    Attributes as in `ResidualAttention`, and:
      form: `elu` (the kernel `elu + 1`), `relu`, or `softmax` (of queries over channels, of keys over positions).
      heads: number of heads.
      head_dim: width of a head; 0 divides the channels by the heads.
    """

    form: str = option("elu", choices=linear_ops.FORMS)
    heads: int = option(2, at_least=1)
    head_dim: int = option(0, at_least=0)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns what every position gathers; the implied weights are recorded as `linear`."""
        b, h, w, c = x.shape
        d = head_width(c, self.heads, self.head_dim)

        def project(name: str) -> Array:
            return Dense(self.heads * d, dtype=self.dtype, name=name)(x).reshape(b, h * w, self.heads, d)

        q, k, v = project("query"), project("key"), project("value")

        def record() -> DotProductMap:
            factors = linear_ops.linear_factors(q, k, form=self.form)
            return DotProductMap(*factors, scale=1.0, softmax=False, query_size=(h, w), key_size=(h, w))

        sow_record(self, "linear", record)
        y = linear_ops.linear_attention(q, k, v, form=self.form).reshape(b, h, w, self.heads * d)
        return Dense(c, dtype=self.dtype, name="out")(y)
