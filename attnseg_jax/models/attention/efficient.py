"""Spatial-reduction attention (Xie et al. 2021, arXiv:2105.15203), after transformers' `modeling_segformer.py`."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import ResidualAttention
from attnseg_jax.models.layers.attention import reduced_multi_head
from attnseg_jax.models.options import option
from attnseg_jax.models.records import sow_record


class EfficientAttention(ResidualAttention):
    """Every position of the deepest map attends to a reduced map: `x + attend(norm(x), reduce(norm(x)))`.

    O(n^2 / reduction^2 c) time.

    Attributes as in `ResidualAttention`, and:
      heads: number of heads.
      reduction: the reduced map has one position for this many rows and columns; 1 is plain self-attention.
      dropout: rate at which attention weights are dropped in training; it needs the dense form.
    """

    heads: int = option(2, at_least=1)
    reduction: int = option(4, at_least=1)
    dropout: float = option(0.0, at_least=0, below=1)
    impl: str = "auto"

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns what every position gathers; its weights are recorded as `efficient`."""
        options = {name: getattr(self, name) for name in ("heads", "reduction", "dropout", "impl", "dtype")}
        y, record = reduced_multi_head(x, train=train, **options)
        sow_record(self, "efficient", record)
        return y
