"""No attention: the baseline of every comparison."""

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features


class NoAttention(Attention):
    """Returns the features as they are."""

    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns `features`."""
        return features
