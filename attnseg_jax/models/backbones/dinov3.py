"""DINOv3's vision transformers (Simeoni et al. 2025, arXiv:2508.10104), after transformers' `dinov3_vit`."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import variant
from attnseg_jax.models.backbones.vit import PlainViT
from attnseg_jax.models.features import Place
from attnseg_jax.models.options import option
from attnseg_jax.ops.rope import axial_angles, rotated


class DINOv3ViT(PlainViT):
    """Plain vision transformer with rotary positions, registers and LayerScale; keys have no bias.

    Queries and keys of the patches are turned by where they are (`ops.rope`), in every block, the class token's and the
    registers' are not: no table, the same for any size of image. What the original does to positions in its own
    training (jitter, rescaling) is left out.

    Attributes:
      rope_base: of the frequencies of the positions.
    """

    key_bias = False
    layouts = ("transformers_dinov3_vit", "transformers_eomt", "tue_dinov3")

    registers: int = option(4, at_least=0, at_most=1024)
    layer_scale: float = option(1e-5, at_least=0)
    norm_epsilon: float = option(1e-5, at_least=0, at_most=1)
    rope_base: float = option(100.0, at_least=1)

    def embedded(self, patches: Float[Array, "b n c"], grid: tuple[int, int]) -> Float[Array, "b m c"]:
        """As in `PlainViT`."""
        return jnp.concatenate([*self.beside(patches.shape[0]), patches], axis=1)

    def rotation(self, place: Place) -> Callable[[Array], Array]:
        """As in `PlainViT`."""
        angles = axial_angles(*place.grid, self.width // self.heads, base=self.rope_base)
        return functools.partial(rotated, angles=jnp.asarray(angles), first=place.first)


DINOv3ViTS = variant(DINOv3ViT, "DINOv3ViTS", width=384, depth=12, heads=6)
DINOv3ViTSPlus = variant(DINOv3ViT, "DINOv3ViTSPlus", width=384, depth=12, heads=6, gated=True)
DINOv3ViTB = variant(DINOv3ViT, "DINOv3ViTB", width=768, depth=12, heads=12)
DINOv3ViTL = variant(DINOv3ViT, "DINOv3ViTL", width=1024, depth=24, heads=16)
