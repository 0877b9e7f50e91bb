"""EfficientViT (Cai et al. 2023, arXiv:2205.14756), after timm's `models/efficientvit_mit.py`."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype, he_normal_depthwise, he_normal_fan_out
from attnseg_jax.models.layers.lite_mla import LiteMLA


class MBConv(nn.Module):
    """Pointwise expansion, depthwise 3x3 convolution, linear projection; a shortcut where the shape stays.

    Attributes:
      features: output channels.
      expansion: channels of the depthwise convolution, in those of the input; 1 leaves the first convolution out.
      stride: of the depthwise convolution.
      norm: whether the first two convolutions are normalised too; otherwise they have biases.
    """

    features: int
    expansion: int = 4
    stride: int = 1
    norm: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j o"]:
        """Applies the block."""
        c = x.shape[-1]
        width = self.expansion * c
        y = self._unit("expand", width, 1, 1, x, train) if self.expansion > 1 else x
        y = self._unit("depthwise", width, 3, self.stride, y, train)
        y = ConvBN(self.features, 1, activation=None, dtype=self.dtype, name="project")(y, train=train)
        return x + y if self.stride == 1 and self.features == c else y

    def _unit(self, name: str, width: int, kernel: int, stride: int, x: Array, train: bool) -> Array:
        depthwise = kernel > 1
        options = {
            "groups": width if depthwise else 1,
            "kernel_init": he_normal_depthwise if depthwise else he_normal_fan_out,
            "dtype": self.dtype,
            "name": name,
        }
        if self.norm:
            return ConvBN(width, kernel, stride, activation=nn.hard_swish, **options)(x, train=train)
        return nn.hard_swish(Conv(width, kernel, stride, use_bias=True, **options)(x))


class EfficientViT(Backbone):
    """Inverted residuals, in the two deeper stages with linear attention; maps at the strides 2 (stem), 4, 8, 16, 32.

    Of images of any size. github.com/mit-han-lab/efficientvit.

    A subclass names the blocks of stem and stages (`depths`), their channels (`widths`) and the width of a head.
    """

    depths: ClassVar[tuple[int, ...]]
    widths: ClassVar[tuple[int, ...]]
    head_dim: ClassVar[int]
    layouts = ("timm_efficientvit",)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        x = ConvBN(self.widths[0], stride=2, activation=nn.hard_swish, dtype=self.dtype, name="stem")(
            image, train=train
        )
        for i in range(self.depths[0]):
            x = MBConv(self.widths[0], 1, dtype=self.dtype, name=f"stem_{i}")(x, train=train)
        maps = {2: x}
        for stage, (depth, width) in enumerate(zip(self.depths[1:], self.widths[1:]), 1):
            attends = stage > 2
            x = MBConv(width, stride=2, norm=not attends, dtype=self.dtype, name=f"down{stage}")(x, train=train)
            # The strided block counts where there is no attention, as in the original.
            for i in range(depth if attends else depth - 1):
                name = f"stage{stage}_{i}"
                if attends:
                    attention = LiteMLA(self.head_dim, dtype=self.dtype, name=f"{name}_attention")
                    x = x + attention(x, train=train)
                x = MBConv(width, norm=not attends, dtype=self.dtype, name=name)(x, train=train)
            maps[2 * 2**stage] = x
        return Features(maps)


EfficientViTB0 = variant(
    EfficientViT, "EfficientViTB0", depths=(1, 2, 2, 2, 2), widths=(8, 16, 32, 64, 128), head_dim=16
)
EfficientViTB1 = variant(
    EfficientViT, "EfficientViTB1", depths=(1, 2, 3, 3, 4), widths=(16, 32, 64, 128, 256), head_dim=16
)
EfficientViTB2 = variant(
    EfficientViT, "EfficientViTB2", depths=(1, 3, 4, 4, 6), widths=(24, 48, 96, 192, 384), head_dim=32
)
EfficientViTB3 = variant(
    EfficientViT, "EfficientViTB3", depths=(1, 4, 6, 6, 9), widths=(32, 64, 128, 256, 512), head_dim=32
)
