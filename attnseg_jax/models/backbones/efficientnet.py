"""EfficientNet (Tan & Le 2019) in its "lite" form: ReLU6, no squeeze-and-excitation, fixed stem and head."""

import math
from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, output_stride_option, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.inverted import InvertedResidual, conv_norm, round_channels
from attnseg_jax.models.options import option
from attnseg_jax.ops.conv import same_padding

# Kernel, stride, expansion, channels and blocks of every stage of lite0.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Factors of the channels and of the blocks, and the height and width of the images of the training.
_VARIANTS = ((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 280), (1.4, 1.8, 300))


def stage_depths(variant: int) -> list[int]:
    """Blocks of every stage; the first and the last stage have one in all variants."""
    return [repeats if repeats == 1 else math.ceil(_VARIANTS[variant][1] * repeats) for *_, repeats in _STAGES]


class EfficientNetLite(Backbone):
    """EfficientNet-Lite; maps at the nominal strides 2, 4, 8, 16 and 32.

    A map is the output of the last block at its stride, which ends in a normalisation, without a ReLU.
    Convolutions are padded as TensorFlow's 'SAME', by the size of their own input, so any image size works. Where the
    output stride is below 32 the later stages keep their resolution and dilate their depthwise convolutions; the
    first block of such a stage still has the dilation of the stage before.

    Attributes:
      output_stride: 8, 16 or 32.
      drop_path: rate of stochastic depth: a block that i of n precede is left out for an image at `i / n` of it, in
        training.
      static_padding: pads every image as one of the size of the original training, as the package
        `efficientnet-lite-pytorch` does; the same where the halved sizes are odd and even alike.
    """

    variant: ClassVar[int]
    layouts: ClassVar[tuple[str, ...]]

    output_stride: int = output_stride_option()
    drop_path: float = option(0.0, at_least=0, below=1)
    static_padding: bool = False

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        padding = self._padding(image, 1, 3, 2, 1)
        x = conv_norm(32, 3, 2, padding, activation=nn.relu6, dtype=self.dtype, name="stem")(image, train=train)
        maps, depths = {}, stage_depths(self.variant)
        nominal, dilation, done = 2, 1, 0
        for stage, (kernel, stride, expansion, channels, _) in enumerate(_STAGES):
            before, first = nominal, dilation
            nominal *= stride
            if nominal > self.output_stride:
                stride, dilation = 1, dilation * stride
            for i in range(depths[stage]):
                step, distance = (stride, first) if i == 0 else (1, dilation)
                x = InvertedResidual(
                    round_channels(channels * _VARIANTS[self.variant][0]),
                    x.shape[-1] * expansion,
                    kernel,
                    step,
                    self._padding(x, before, kernel, step, distance),
                    distance,
                    drop_path=self.drop_path * done / sum(depths),
                    dtype=self.dtype,
                    name=f"stage{stage}_{i}",
                )(x, train=train)
                done += 1
            maps[nominal] = x
        return Features(maps)

    def _padding(self, x, nominal, kernel, stride, dilation):
        """Zeros on the four sides of a map at a nominal stride."""
        sizes = x.shape[1:3]
        if self.static_padding:
            sizes = (math.ceil(_VARIANTS[self.variant][2] / nominal),) * 2
        return tuple(same_padding(size, kernel, stride, dilation) for size in sizes)


EfficientNetLite0, EfficientNetLite1, EfficientNetLite2, EfficientNetLite3, EfficientNetLite4 = (
    variant(
        EfficientNetLite,
        f"EfficientNetLite{i}",
        variant=i,
        layouts=("timm_efficientnet_lite", f"efficientnet_lite{i}_pytorch"),
    )
    for i in range(len(_VARIANTS))
)
