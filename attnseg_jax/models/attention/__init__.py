"""Attention mechanisms: `Features` -> `Features`."""

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.attention.ema import EMAUnit, ExpectationMaximization
from attnseg_jax.models.attention.encnet import ContextEncoding, Encoding
from attnseg_jax.models.attention.linear import LinearAttention
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.models.attention.self_attention import MultiHeadAttention, SelfAttention
from attnseg_jax.models.attention.stack import Stack

ATTENTION = {
    "ema": ExpectationMaximization,
    "encnet": ContextEncoding,
    "linear": LinearAttention,
    "none": NoAttention,
    "self": SelfAttention,
}
__all__ = [
    "ATTENTION",
    "Attention",
    "ContextEncoding",
    "EMAUnit",
    "Encoding",
    "ExpectationMaximization",
    "LinearAttention",
    "MultiHeadAttention",
    "NoAttention",
    "SelfAttention",
    "Stack",
]
