"""The parts that exports are tried with: of backbones the first of each family, every mechanism and decoder."""

from attnseg_jax.models import ATTENTION, BACKBONES, DECODERS

# The first of every family; the others have more or wider layers of the same kind.
FAMILIES = list({module.__module__: name for name, module in reversed(BACKBONES.items())}.values())[::-1]
# What a part cannot be without.
NEEDS = {
    "gate": {"decoder__name": "unet", "backbone__name": "unet", "backbone__unet__width": 8},
    "axial": {"attention__axial__heads": 2},
    "segnet": {"backbone__name": "vgg16", "backbone__vgg16__output_stride": 32},
    "eomt": {"backbone__name": "vit_ti", "decoder__eomt__blocks": 2},
    "masked_attention": {"decoder__masked_attention__layers": 2},
    "mask2former": {"decoder__mask2former__layers": 2, "decoder__mask2former__pixel_layers": 1},
}
CASES = [
    *(("backbone", name) for name in FAMILIES),
    *(("attention", name) for name in ATTENTION),
    *(("decoder", name) for name in DECODERS),
]
