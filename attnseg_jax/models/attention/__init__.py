"""Attention mechanisms: `Features` -> `Features`."""

from attnseg_jax.models.attention.axial import AxialAttention, AxisAttention
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.attention.criss_cross import CrissCross, CrissCrossAttention
from attnseg_jax.models.attention.local import LocalAttention
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.models.attention.self_attention import MultiHeadAttention, SelfAttention
from attnseg_jax.models.attention.stack import Stack
from attnseg_jax.models.attention.window import ShiftedWindowAttention, SwinBlock, WindowAttention

ATTENTION = {
    "axial": AxialAttention,
    "criss_cross": CrissCrossAttention,
    "local": LocalAttention,
    "none": NoAttention,
    "self": SelfAttention,
    "window": WindowAttention,
}
__all__ = [
    "ATTENTION",
    "Attention",
    "AxialAttention",
    "AxisAttention",
    "CrissCross",
    "CrissCrossAttention",
    "LocalAttention",
    "MultiHeadAttention",
    "NoAttention",
    "SelfAttention",
    "ShiftedWindowAttention",
    "Stack",
    "SwinBlock",
    "WindowAttention",
]
