"""Several mechanisms one after another: `config.model.attention.name = 'a+b'`."""

from jaxtyping import Array, Float

from attnseg_jax.errors import option_path
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features


class Stack(Attention):
    """Applies its mechanisms in order, to features, logits and skips alike.

    Attributes:
      parts: the mechanisms.
      paths: where in a config the options of each stand, for messages.
    """

    parts: tuple[Attention, ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def has_gate(self) -> bool:
        """Whether any part gates skips."""
        return any(part.has_gate for part in self.parts)

    @property
    def gate_path(self) -> str:
        """Where in a config the options of the first part that gates skips stand, for messages."""
        return next((path for part, path in self._parts() if part.has_gate), "")

    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features after all parts."""
        for part, path in self._parts():
            with option_path(path):
                features = part(features, train=train)
        return features

    def refine(self, logits: Float[Array, "b h w k"], features: Features) -> Float[Array, "b h w k"]:
        """Returns the logits after all parts."""
        for part, path in self._parts():
            with option_path(path):
                logits = part.refine(logits, features)
        return logits

    def gate(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, stride: int, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns the skip after all gates."""
        for part, path in self._parts():
            with option_path(path):
                skip = part.gate(skip, signal, stride=stride, train=train)
        return skip

    def _parts(self) -> list[tuple[Attention, str]]:
        paths = self.paths or ("",) * len(self.parts)
        return list(zip(self.parts, paths, strict=True))
