"""What all backbones have alike: how they freeze, and refusing output strides that are none and images too small."""

from contextlib import nullcontext

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import frozen_norms


def backbone_features(backbone: nn.Module, image: Float[Array, "b h w c"], freeze: str, *, train: bool) -> Features:
    """The backbone's features in training, as `freeze` ('none', 'bn', 'all') has it, or in evaluation.

    'bn': batch normalisation works in training as in evaluation, and its scales and biases stay (a backbone without any
    trains as with 'none'); 'all': so does the whole backbone, no parameter of which gets a gradient.
    """
    if freeze == "all":
        return jax.lax.stop_gradient(backbone(image, train=False))
    with frozen_norms() if freeze == "bn" else nullcontext():
        return backbone(image, train=train)


def check_output_stride(path: str, output_stride: int) -> None:
    """Refuses an output stride other than 8, 16 and 32; `path` leads to the key `output_stride`."""
    if output_stride not in (8, 16, 32):
        raise UserError(f"{path}.output_stride={output_stride} is unknown: choose 8, 16 or 32")


def check_size(name: str, size: tuple[int, int], least: int) -> None:
    """Refuses images of which the backbone `name` would have nothing left at some stage.

    >>> check_size("swin_t", (3, 64), 4)
    Traceback (most recent call last):
    attnseg_jax.errors.UserError: config.model.backbone.name='swin_t' needs images of at least 4x4 pixels, not 3x64: \
give larger images or choose another backbone
    """
    if min(size) < least:
        raise UserError(
            f"config.model.backbone.name={name!r} needs images of at least {least}x{least} pixels, not "
            f"{size[0]}x{size[1]}: give larger images or choose another backbone"
        )
