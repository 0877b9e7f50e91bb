"""DINOv3's ConvNeXts (Simeoni et al. 2025, arXiv:2508.10104), after transformers' `modeling_dinov3_convnext.py`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import variant
from attnseg_jax.models.backbones.convnext import ConvNeXt
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import layer_norm


class DINOv3ConvNeXt(ConvNeXt):
    """`ConvNeXt` whose last map has a normalisation, with which it was trained; attributes as there.

    `extras["class_token"]` is the mean of the last stage after the same normalisation, `[b, c]`.
    """

    layouts = ("transformers_dinov3_convnext",)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        features = super().__call__(image, train=train)
        norm = layer_norm("norm")
        x = features.deepest.astype(jnp.float32)
        mean = norm(x.mean(axis=(1, 2))).astype(self.dtype)
        return features.with_deepest(norm(x).astype(self.dtype)).replace(extras={"class_token": mean})


DINOv3ConvNeXtT = variant(DINOv3ConvNeXt, "DINOv3ConvNeXtT", depths=(3, 3, 9, 3))
DINOv3ConvNeXtS = variant(DINOv3ConvNeXt, "DINOv3ConvNeXtS", depths=(3, 3, 27, 3))
DINOv3ConvNeXtB = variant(DINOv3ConvNeXt, "DINOv3ConvNeXtB", depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024))
DINOv3ConvNeXtL = variant(DINOv3ConvNeXt, "DINOv3ConvNeXtL", depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536))
