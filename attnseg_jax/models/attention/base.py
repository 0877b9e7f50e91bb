"""What every attention mechanism offers to the model around it."""

from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.features import Features
from attnseg_jax.models.records import AttentionRecord

Records = dict[str, AttentionRecord]


def lead_width(channels: int, x: Float[Array, "b h w c"]) -> int:
    """`channels`, or where that is 0 those of `x` up to 512, the width that heads of ResNet-50 have in the literature.

    >>> import numpy as np
    >>> lead_width(0, np.zeros((1, 2, 3, 64))), lead_width(0, np.zeros((1, 2, 3, 2048)))
    (64, 512)
    """
    return channels or min(x.shape[-1], 512)


class Attention(nn.Module):
    """Base of all mechanisms: a map `Features -> Features` and two optional joints.

    A mechanism that needs the number of classes or a compute type declares the fields `num_classes` or `dtype`;
    `build_model` fills them. All other fields are keys of `config.model.attention.NAME`.

    All three methods may be `nn.compact`; submodules of `refine` and `gate` need names of their own, those of `gate`
    one for each stride. What they want to show they return beside their result, by name.

    Attributes:
      has_gate: whether the mechanism gates a decoder's skips.
    """

    has_gate: ClassVar[bool] = False

    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features after attention; it may add auxiliary logits and maps to look at."""
        raise NotImplementedError

    def refine(self, logits: Float[Array, "b h w k"], features: Features) -> tuple[Float[Array, "b h w k"], Records]:
        """Returns the decoder's logits, at the decoder's resolution, after refinement (none here)."""
        return logits, {}

    def gate(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, stride: int, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], Records]:
        """Returns a decoder's skip of nominal `stride`, weighted by the coarser `signal` (unchanged here)."""
        return skip, {}
