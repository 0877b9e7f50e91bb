"""Attention mechanisms: `Features` -> `Features`."""

from attnseg_jax.models.attention.axial import AxialAttention
from attnseg_jax.models.attention.base import Attention, ResidualAttention
from attnseg_jax.models.attention.cbam import CBAM
from attnseg_jax.models.attention.conv import ConvolutionalAttention
from attnseg_jax.models.attention.criss_cross import CrissCrossAttention
from attnseg_jax.models.attention.danet import DANet
from attnseg_jax.models.attention.deformable import Deformable
from attnseg_jax.models.attention.efficient import EfficientAttention
from attnseg_jax.models.attention.ema import ExpectationMaximization
from attnseg_jax.models.attention.encnet import ContextEncoding
from attnseg_jax.models.attention.gate import Gate
from attnseg_jax.models.attention.hamburger import Hamburger
from attnseg_jax.models.attention.interlaced import Interlaced
from attnseg_jax.models.attention.linear import LinearAttention
from attnseg_jax.models.attention.litemla import LiteMultiScaleAttention
from attnseg_jax.models.attention.local import LocalAttention
from attnseg_jax.models.attention.non_local import NonLocal
from attnseg_jax.models.attention.none import NoAttention
from attnseg_jax.models.attention.ocr import OCR
from attnseg_jax.models.attention.psa import PSA
from attnseg_jax.models.attention.scse import SCSE
from attnseg_jax.models.attention.se import SE
from attnseg_jax.models.attention.self_attention import SelfAttention
from attnseg_jax.models.attention.stack import Stack
from attnseg_jax.models.attention.window import WindowAttention

ATTENTION: dict[str, type[Attention]] = {
    "none": NoAttention,
    "self": SelfAttention,
    "local": LocalAttention,
    "nonlocal": NonLocal,
    "danet": DANet,
    "criss_cross": CrissCrossAttention,
    "axial": AxialAttention,
    "window": WindowAttention,
    "interlaced": Interlaced,
    "efficient": EfficientAttention,
    "ocr": OCR,
    "se": SE,
    "cbam": CBAM,
    "scse": SCSE,
    "gate": Gate,
    "psa": PSA,
    "linear": LinearAttention,
    "ema": ExpectationMaximization,
    "encnet": ContextEncoding,
    "conv": ConvolutionalAttention,
    "hamburger": Hamburger,
    "litemla": LiteMultiScaleAttention,
    "deformable": Deformable,
}
__all__ = ["ATTENTION", "Attention", "ResidualAttention", "Stack"]
