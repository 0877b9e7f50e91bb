"""Attention mechanisms: `Features` -> `Features`."""

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.attention.local import LocalAttention
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.models.attention.self_attention import MultiHeadAttention, SelfAttention
from attnseg_jax.models.attention.stack import Stack

ATTENTION = {
    "local": LocalAttention,
    "none": NoAttention,
    "self": SelfAttention,
}
__all__ = ["ATTENTION", "Attention", "LocalAttention", "MultiHeadAttention", "NoAttention", "SelfAttention", "Stack"]
