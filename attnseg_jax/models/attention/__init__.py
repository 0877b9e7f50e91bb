"""Attention mechanisms: `Features` -> `Features`."""

from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.attention.cbam import CBAM
from attnseg_jax.models.attention.ema import EMAUnit, ExpectationMaximization
from attnseg_jax.models.attention.encnet import ContextEncoding, Encoding
from attnseg_jax.models.attention.gate import Gate
from attnseg_jax.models.attention.linear import LinearAttention
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.models.attention.psa import PSA
from attnseg_jax.models.attention.scse import SCSE
from attnseg_jax.models.attention.se import SE
from attnseg_jax.models.attention.self_attention import MultiHeadAttention, SelfAttention
from attnseg_jax.models.attention.stack import Stack

ATTENTION = {
    "none": NoAttention,
    "self": SelfAttention,
    "se": SE,
    "cbam": CBAM,
    "scse": SCSE,
    "gate": Gate,
    "psa": PSA,
    "linear": LinearAttention,
    "ema": ExpectationMaximization,
    "encnet": ContextEncoding,
}
__all__ = [
    "ATTENTION",
    "CBAM",
    "PSA",
    "SCSE",
    "SE",
    "Attention",
    "ContextEncoding",
    "EMAUnit",
    "Encoding",
    "ExpectationMaximization",
    "Gate",
    "LinearAttention",
    "MultiHeadAttention",
    "NoAttention",
    "SelfAttention",
    "Stack",
]
