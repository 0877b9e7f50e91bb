"""Several mechanisms one after another: `config.model.attention.name = 'a+b'`."""

from collections.abc import Sequence

from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features


class Stack(Attention):
    """Applies its mechanisms in order, to features, logits and skips alike.

    Attributes:
      parts: the mechanisms.
    """

    parts: Sequence[Attention]

    @property
    def has_gate(self) -> bool:
        """Whether any part gates skips."""
        return any(part.has_gate for part in self.parts)

    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features after all parts."""
        for part in self.parts:
            features = part(features, train=train)
        return features

    def refine(self, logits: Float[Array, "b h w k"], features: Features) -> Float[Array, "b h w k"]:
        """Returns the logits after all parts."""
        for part in self.parts:
            logits = part.refine(logits, features)
        return logits

    def gate(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, stride: int, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns the skip after all gates."""
        for part in self.parts:
            skip = part.gate(skip, signal, stride=stride, train=train)
        return skip
