"""Linen modules: backbones, attention, decoders and their composition.

Two fields mean the same in all of them. `dtype` is the compute type; parameters, softmax, normalisation and logits are
float32 whatever it is. `impl` is how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
"""

from attnseg_jax.models.attention import ATTENTION
from attnseg_jax.models.backbones import BACKBONES
from attnseg_jax.models.build import build_model
from attnseg_jax.models.decoders import DECODERS
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.segmenter import Segmenter

__all__ = ["ATTENTION", "BACKBONES", "DECODERS", "Features", "Output", "Segmenter", "build_model"]
