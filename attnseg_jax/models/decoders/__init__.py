"""Decoders: `Features` -> `Output` at the size of their maps."""

from attnseg_jax.models.decoders.fcn import FCN, FCNHead
from attnseg_jax.models.decoders.mask_transformer import MaskTransformer, MaskTransformerDecoder

DECODERS = {
    "fcn": FCN,
    "mask_transformer": MaskTransformerDecoder,
}
__all__ = ["DECODERS", "FCN", "FCNHead", "MaskTransformer", "MaskTransformerDecoder"]
