"""Linen modules: backbones, attention, decoders and their composition."""

from attnseg_jax.models.attention import ATTENTION
from attnseg_jax.models.backbones import BACKBONES
from attnseg_jax.models.build import build_model
from attnseg_jax.models.decoders import DECODERS
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.segmenter import Segmenter

__all__ = ["ATTENTION", "BACKBONES", "DECODERS", "Features", "Output", "Segmenter", "build_model"]
