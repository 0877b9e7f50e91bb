"""Attention mechanisms: `Features` -> `Features`."""

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.attention.criss_cross import CrissCross, CrissCrossAttention
from attnseg_jax.models.attention.local import LocalAttention
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.models.attention.self_attention import MultiHeadAttention, SelfAttention
from attnseg_jax.models.attention.stack import Stack

ATTENTION = {
    "criss_cross": CrissCrossAttention,
    "local": LocalAttention,
    "none": NoAttention,
    "self": SelfAttention,
}
__all__ = [
    "ATTENTION",
    "Attention",
    "CrissCross",
    "CrissCrossAttention",
    "LocalAttention",
    "MultiHeadAttention",
    "NoAttention",
    "SelfAttention",
    "Stack",
]
