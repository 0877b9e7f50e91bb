"""Decoders: `Features` -> `Output` at the size of their maps."""

from attnseg_jax.models.decoders.ddr import DDR
from attnseg_jax.models.decoders.deeplab import DeepLabV3, DeepLabV3Plus
from attnseg_jax.models.decoders.dpt import DPT
from attnseg_jax.models.decoders.eomt import EoMT
from attnseg_jax.models.decoders.fcn import FCN
from attnseg_jax.models.decoders.fpn import FPN
from attnseg_jax.models.decoders.ham import Ham
from attnseg_jax.models.decoders.linear import Linear
from attnseg_jax.models.decoders.linknet import LinkNet
from attnseg_jax.models.decoders.lraspp import LRASPP
from attnseg_jax.models.decoders.manet import MANet
from attnseg_jax.models.decoders.mask2former import Mask2Former
from attnseg_jax.models.decoders.mask_transformer import MaskTransformer
from attnseg_jax.models.decoders.masked_attention import MaskedAttentionDecoder, MaskedAttentionLayer
from attnseg_jax.models.decoders.pan import PAN
from attnseg_jax.models.decoders.pyramid import PSP, UPer
from attnseg_jax.models.decoders.segformer import SegFormer
from attnseg_jax.models.decoders.segnet import SegNet
from attnseg_jax.models.decoders.unet import UNet
from attnseg_jax.models.decoders.unetplusplus import UNetPlusPlus

DECODERS = {
    "fcn": FCN,
    "deeplabv3": DeepLabV3,
    "deeplabv3plus": DeepLabV3Plus,
    "eomt": EoMT,
    "fpn": FPN,
    "lraspp": LRASPP,
    "mask_transformer": MaskTransformer,
    "masked_attention": MaskedAttentionDecoder,
    "mask2former": Mask2Former,
    "segnet": SegNet,
    "psp": PSP,
    "segformer": SegFormer,
    "unet": UNet,
    "uper": UPer,
    "ham": Ham,
    "unetplusplus": UNetPlusPlus,
    "manet": MANet,
    "linknet": LinkNet,
    "pan": PAN,
    "dpt": DPT,
    "linear": Linear,
    "ddr": DDR,
}
__all__ = ["DECODERS", "MaskedAttentionLayer"]
