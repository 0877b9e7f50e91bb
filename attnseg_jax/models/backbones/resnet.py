"""ResNet (He et al. 2016) with output stride 8, 16 or 32, after torchvision's `models/resnet.py`, and its deep stem."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.backbones.base import Backbone, output_stride_option, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import BatchNorm, Conv, Dtype
from attnseg_jax.models.options import option
from attnseg_jax.ops import pool


class Block(nn.Module):
    """A residual block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1; the stride stands on the 3x3).

    Attributes:
      width: channels of the 3x3 convolutions; a bottleneck puts out four times as many.
      bottleneck: which form.
      stride: of the first 3x3 (basic) or the only 3x3 (bottleneck).
      dilation: of every 3x3.
      zero_init: the last scale starts at 0, so the block starts as its shortcut.
    """

    width: int
    bottleneck: bool
    stride: int = 1
    dilation: int = 1
    zero_init: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j o"]:
        """Adds the block's branch to its shortcut."""
        features = self.width * (4 if self.bottleneck else 1)
        convs = [(self.width, 3, self.stride), (self.width, 3, 1)]
        if self.bottleneck:
            convs = [(self.width, 1, 1), (self.width, 3, self.stride), (features, 1, 1)]
        y = x
        for i, (width, kernel, stride) in enumerate(convs, 1):
            dilation = self.dilation if kernel > 1 else 1
            last = i == len(convs)
            init = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
            y = Conv(width, kernel, stride, dilation=dilation, dtype=self.dtype, name=f"conv{i}")(y)
            y = BatchNorm(dtype=self.dtype, scale_init=init, name=f"bn{i}")(y, train=train)
            y = y if last else nn.relu(y)
        if self.stride != 1 or x.shape[-1] != features:
            x = Conv(features, 1, self.stride, dtype=self.dtype, name="downsample_conv")(x)
            x = BatchNorm(dtype=self.dtype, name="downsample_bn")(x, train=train)
        return nn.relu(x + y)


class ResNet(Backbone):
    """ResNet without its classifier; maps at the nominal strides 2 (stem), 4, 8, 16 and 32.

    Where the output stride is below 32 the later stages keep their resolution and dilate their 3x3 convolutions.

    A subclass names the blocks of its four stages (`depths`) and their form (`bottleneck`), and may change their width
    (`widths`) and that of the stem (`stem_width`).

    Attributes:
      output_stride: 8, 16 or 32.
      zero_init_residual: the last scale of every block starts at 0.
      contract_dilation: the first block of a stage that keeps its resolution has the dilation of the stage before, as
        in torchvision.
      multi_grid: factors of the dilation of the last stage's blocks, such as `(1, 2, 4)`; the first one counts where
        the first block contracts, too.
    """

    depths: ClassVar[tuple[int, ...]]
    bottleneck: ClassVar[bool]
    widths: ClassVar[tuple[int, ...]] = (64, 128, 256, 512)
    stem_width: ClassVar[int] = 64
    layouts = ("torchvision_resnet", "transformers_resnet", "detectron2_resnet")

    output_stride: int = output_stride_option()
    zero_init_residual: bool = False
    contract_dilation: bool = True
    multi_grid: tuple[int, ...] = option((), at_least=1, at_most=1024)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        if len(self.multi_grid) not in (0, self.depths[-1]):
            hint = f"must name a factor of at least 1 for each of the last stage's {self.depths[-1]} blocks, or none"
            raise OptionError("multi_grid", self.multi_grid, hint)
        x = self._stem(image, train=train)
        maps = {2: x}
        x = pool.max_pool(x, 3, 2, 1)
        dilation = 1
        for stage, depth in enumerate(self.depths):
            nominal = 4 * 2**stage
            stride, first = (1 if stage == 0 else 2), dilation
            if nominal > self.output_stride:
                stride, dilation = 1, dilation * 2
            factors = self.multi_grid if self.multi_grid and nominal == 32 else (1,) * depth
            for i, factor in enumerate(factors):
                x = Block(
                    self.widths[stage],
                    self.bottleneck,
                    stride if i == 0 else 1,
                    factor * (first if i == 0 and self.contract_dilation else dilation),
                    self.zero_init_residual,
                    self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )(x, train=train)
            maps[nominal] = x
        return Features(maps)

    def _stem(self, image, *, train):
        x = Conv(self.stem_width, 7, 2, dtype=self.dtype, name="conv1")(image)
        return nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train=train))


ResNet18 = variant(ResNet, "ResNet18", depths=(2, 2, 2, 2), bottleneck=False)
ResNet34 = variant(ResNet, "ResNet34", depths=(3, 4, 6, 3), bottleneck=False)
ResNet50 = variant(ResNet, "ResNet50", depths=(3, 4, 6, 3), bottleneck=True)
ResNet101 = variant(ResNet, "ResNet101", depths=(3, 4, 23, 3), bottleneck=True)


class DeepStem(ResNet):
    """ResNet whose 7x7 convolution is three of 3x3, the "v1c" of Bag of Tricks (He et al. 2019, arXiv:1812.01187).

    Attributes as in `ResNet`, and:
      stem: channels of the three, `(32, 32, 64)` as in MMSegmentation; hszhao/semseg and EMANet have `(64, 64, 128)`.
    """

    layouts = ("mmseg_resnet_v1c", "semseg_resnet_v1c", "emanet_resnet_v1c")

    stem: tuple[int, ...] = option((32, 32, 64), at_least=1, lengths=(3,))

    def _stem(self, image, *, train):
        x = image
        for i, features in enumerate(self.stem, 1):
            x = Conv(features, stride=2 if i == 1 else 1, dtype=self.dtype, name=f"stem{i}_conv")(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"stem{i}_bn")(x, train=train))
        return x


ResNet50V1c = variant(DeepStem, "ResNet50V1c", depths=(3, 4, 6, 3), bottleneck=True)
ResNet101V1c = variant(DeepStem, "ResNet101V1c", depths=(3, 4, 23, 3), bottleneck=True)
