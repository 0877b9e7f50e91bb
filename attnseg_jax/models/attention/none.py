"""No attention: the baseline of every comparison."""

from attnseg_jax.models.attention.base import Attention


class NoAttention(Attention):
    """Returns features, logits and skips as they are."""
