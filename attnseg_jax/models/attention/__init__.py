"""Attention mechanisms: `Features` -> `Features`."""

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.attention.danet import ChannelAttention, DANet, PositionAttention
from attnseg_jax.models.attention.efficient import Efficient, EfficientAttention
from attnseg_jax.models.attention.interlaced import Interlaced, InterlacedBlock, InterlacedContext
from attnseg_jax.models.attention.non_local import NonLocal, NonLocalBlock
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.models.attention.ocr import OCR, ObjectAttention, ObjectContext
from attnseg_jax.models.attention.self_attention import MultiHeadAttention, SelfAttention
from attnseg_jax.models.attention.stack import Stack

ATTENTION = {
    "none": NoAttention,
    "self": SelfAttention,
    "nonlocal": NonLocal,
    "danet": DANet,
    "efficient": Efficient,
    "ocr": OCR,
    "interlaced": Interlaced,
}
__all__ = [
    "ATTENTION",
    "OCR",
    "Attention",
    "ChannelAttention",
    "DANet",
    "Efficient",
    "EfficientAttention",
    "Interlaced",
    "InterlacedBlock",
    "InterlacedContext",
    "MultiHeadAttention",
    "NoAttention",
    "NonLocal",
    "NonLocalBlock",
    "ObjectAttention",
    "ObjectContext",
    "PositionAttention",
    "SelfAttention",
    "Stack",
]
