"""Decoders: `Features` -> `Output` at the size of their maps."""

from attnseg_jax.models.decoders.fcn import FCN, FCNHead
from attnseg_jax.models.decoders.mask_transformer import MaskTransformer, MaskTransformerDecoder
from attnseg_jax.models.decoders.masked_attention import MaskedAttentionDecoder, MaskedAttentionLayer
from attnseg_jax.models.decoders.segnet import SegNet

DECODERS = {
    "fcn": FCN,
    "mask_transformer": MaskTransformerDecoder,
    "masked_attention": MaskedAttentionDecoder,
    "segnet": SegNet,
}
__all__ = [
    "DECODERS",
    "FCN",
    "FCNHead",
    "MaskTransformer",
    "MaskTransformerDecoder",
    "MaskedAttentionDecoder",
    "MaskedAttentionLayer",
    "SegNet",
]
