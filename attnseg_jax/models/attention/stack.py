"""Several mechanisms one after another: `config.model.attention.name = 'a+b'`."""

from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention, Records
from attnseg_jax.models.features import Features, numbered


class Stack(Attention):
    """Applies its mechanisms in order, to features, logits and skips alike.

    Attributes:
      parts: the mechanisms.
    """

    parts: tuple[Attention, ...]

    @property
    def has_gate(self) -> bool:
        """Whether any part gates skips."""
        return any(part.has_gate for part in self.parts)

    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features after all parts."""
        for part in self.parts:
            features = part(features, train=train)
        return features

    def refine(self, logits: Float[Array, "b h w k"], features: Features) -> tuple[Float[Array, "b h w k"], Records]:
        """Returns the logits after all parts."""
        maps: Records = {}
        for part in self.parts:
            logits, new = part.refine(logits, features)
            maps = numbered(maps, new)
        return logits, maps

    def gate(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, stride: int, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], Records]:
        """Returns the skip after all gates."""
        maps: Records = {}
        for part in self.parts:
            skip, new = part.gate(skip, signal, stride=stride, train=train)
            maps = numbered(maps, new)
        return skip, maps
