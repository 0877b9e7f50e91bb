"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545), after torchvision's `models/convnext.py`, and its second version."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Conv, Dtype, layer_norm
from attnseg_jax.models.layers.gates import channel_length
from attnseg_jax.models.layers.residual import drop_path, drop_path_rates, mlp, scale_channels
from attnseg_jax.models.options import option

_init = nn.initializers.truncated_normal(0.02)


class ResponseNorm(nn.Module):
    """Global response normalisation: `x + bias + scale * x * n`, n a channel's length over the mean length of all.

    Woo et al. 2023, arXiv:2301.00808. Lengths are taken over all positions, in float32, so that every pixel depends on
    the whole image; the module starts as the identity.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the map, its strong channels made stronger."""
        shape = (1, 1, 1, x.shape[-1])
        scale = self.param("scale", nn.initializers.zeros, shape[3:], jnp.float32).reshape(shape)
        bias = self.param("bias", nn.initializers.zeros, shape[3:], jnp.float32).reshape(shape)
        y, length = x.astype(jnp.float32), channel_length(x)
        y = y + bias + scale * y * (length / (length.mean(axis=-1, keepdims=True) + 1e-6))
        return y.astype(x.dtype)


class ConvNeXtBlock(nn.Module):
    """`x + scale * mlp(norm(conv(x)))`, the convolution depthwise 7x7, the MLP four times as wide.

    Attributes:
      layer_scale: what the branch's factors start at; 0 leaves them out.
      drop_path: rate at which the branch is dropped, in training.
      response_norm: normalises the hidden channels of the MLP.
    """

    layer_scale: float = 1e-6
    drop_path: float = 0.0
    dtype: Dtype = jnp.float32
    response_norm: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Adds the block's branch to its input."""
        c = x.shape[-1]
        y = Conv(c, 7, groups=c, use_bias=True, dtype=self.dtype, kernel_init=_init, name="conv")(x)
        y = layer_norm("norm")(y).astype(self.dtype)
        y = mlp(y, 4 * c, self.dtype, **({"inside": ResponseNorm(name="grn")} if self.response_norm else {}))
        y = scale_channels(self, "layer_scale", y, self.layer_scale) if self.layer_scale else y
        return x + drop_path(y, self.drop_path, train=train)


class ConvNeXt(Backbone):
    """Four stages of convolutions built like a transformer's; maps at the strides 4, 8, 16 and 32.

    The maps are what the stages put out, which torchvision does not normalise; with `stage_norms` they are, as its
    authors and mmsegmentation hand them to decoders, but ImageNet weights do not fill these. Every halving leaves out
    an odd last row and column, as the original does: images of a multiple of 32 are seen whole.

    A subclass names the blocks of its four stages (`depths`) and their channels (`widths`).

    Attributes:
      stage_norms: normalises the maps.
      layer_scale: what the factors of every branch start at; 0 leaves them out.
      drop_path: rate at which the last block's branch is dropped in training, growing from 0 in the first (0.1 in
        `convnext_t`, 0.4 in `convnext_s`, 0.5 in `convnext_b`).
    """

    depths: ClassVar[tuple[int, ...]]
    widths: ClassVar[tuple[int, ...]] = (96, 192, 384, 768)
    response_norm: ClassVar[bool] = False
    layouts = ("torchvision_convnext", "transformers_convnext")
    least_size = 32

    stage_norms: bool = False
    layer_scale: float = option(1e-6, at_least=0)
    drop_path: float = option(0.0, at_least=0, below=1)

    @property
    def layer_paths(self) -> tuple[str, ...]:
        """As in `Backbone`: the first stages are one layer each, the third has one for every three blocks."""
        third = [f"stage3_({'|'.join(map(str, range(i, i + 3)))})/.*" for i in range(0, self.depths[2], 3)]
        third[0] = f"(down3_.*|{third[0]})"
        return ("down1_.*", "stage1_.*", "(down2|stage2)_.*", *third, "(down4|stage4)_.*")

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        self.check_size(image)
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        x, maps = image, {}
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths), 1):
            x = self._down(x, stage, width)
            for i in range(depth):
                options = {"response_norm": self.response_norm, "name": f"stage{stage}_{i}"}
                x = ConvNeXtBlock(self.layer_scale, next(rates), self.dtype, **options)(x, train=train)
            stride = 2 * 2**stage
            maps[stride] = layer_norm(f"map_norm{stride}")(x).astype(self.dtype) if self.stage_norms else x
        return Features(maps)

    def _down(self, x: Array, stage: int, width: int) -> Array:
        """Patches become pixels; the first are normalised after it, the others before."""
        size = 2 if stage > 1 else 4
        if stage > 1:
            x = layer_norm(f"down{stage}_norm")(x).astype(self.dtype)
        conv = Conv(width, size, size, 0, use_bias=True, dtype=self.dtype, kernel_init=_init, name=f"down{stage}_conv")
        x = conv(x)
        return x if stage > 1 else layer_norm("down1_norm")(x).astype(self.dtype)


class DINOv3ConvNeXt(ConvNeXt):
    """`ConvNeXt` of DINOv3 (Simeoni et al. 2025, arXiv:2508.10104): the last map is normalised, attributes as there.

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


ConvNeXtT = variant(ConvNeXt, "ConvNeXtT", depths=(3, 3, 9, 3))
ConvNeXtS = variant(ConvNeXt, "ConvNeXtS", depths=(3, 3, 27, 3))
ConvNeXtB = variant(ConvNeXt, "ConvNeXtB", depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024))
DINOv3ConvNeXtT = variant(DINOv3ConvNeXt, "DINOv3ConvNeXtT", depths=(3, 3, 9, 3))
DINOv3ConvNeXtS = variant(DINOv3ConvNeXt, "DINOv3ConvNeXtS", depths=(3, 3, 27, 3))
DINOv3ConvNeXtB = variant(DINOv3ConvNeXt, "DINOv3ConvNeXtB", depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024))
DINOv3ConvNeXtL = variant(DINOv3ConvNeXt, "DINOv3ConvNeXtL", depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536))


class ConvNeXtV2(ConvNeXt):
    """ConvNeXt with response normalisation inside every MLP and no factors (Woo et al. 2023, arXiv:2301.00808).

    After timm's `models/convnext.py`; github.com/facebookresearch/ConvNeXt-V2. Attributes as in `ConvNeXt`.
    """

    response_norm = True
    layouts = ("timm_convnext",)

    layer_scale: float = option(0.0, at_least=0)


def _second(name: str, width: int, depths: tuple[int, ...]) -> type[Backbone]:
    return variant(ConvNeXtV2, f"ConvNeXtV2{name}", depths=depths, widths=tuple(width << i for i in range(4)))


ConvNeXtV2Atto = _second("Atto", 40, (2, 2, 6, 2))
ConvNeXtV2Femto = _second("Femto", 48, (2, 2, 6, 2))
ConvNeXtV2Pico = _second("Pico", 64, (2, 2, 6, 2))
ConvNeXtV2Nano = _second("Nano", 80, (2, 2, 8, 2))
ConvNeXtV2Tiny = _second("Tiny", 96, (3, 3, 9, 3))
ConvNeXtV2Base = _second("Base", 128, (3, 3, 27, 3))
ConvNeXtV2Large = _second("Large", 192, (3, 3, 27, 3))
ConvNeXtV2Huge = _second("Huge", 352, (3, 3, 27, 3))
