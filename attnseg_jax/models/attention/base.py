"""What every attention mechanism offers to the model around it."""

from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.features import Features


class Attention(nn.Module):
    """Base of all mechanisms: a map `Features -> Features` and two optional joints.

    A mechanism that needs the number of classes or a compute type declares the fields `num_classes` or `dtype`;
    `build_model` fills them. All other fields are keys of `config.model.attention.NAME`.

    Attributes:
      has_gate: whether the mechanism gates a decoder's skips.
    """

    has_gate: ClassVar[bool] = False

    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features after attention; it may add auxiliary logits and attention weights."""
        raise NotImplementedError

    def refine(self, logits: Float[Array, "b h w k"], features: Features) -> Float[Array, "b h w k"]:
        """Returns the decoder's logits, at the decoder's resolution, after refinement (none here)."""
        return logits

    def gate(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, stride: int, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns a decoder's skip of nominal `stride`, weighted by the coarser `signal` (unchanged here)."""
        return skip
