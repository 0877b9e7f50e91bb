"""MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), after torchvision's `models/mobilenetv3.py`."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, output_stride_option
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.inverted import InvertedResidual, conv_norm, round_channels

# Kernel, expanded channels, channels, squeeze-and-excitation, hard swish (else ReLU), stride.
_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class MobileNetV3Large(Backbone):
    """MobileNetV3-Large; maps at the nominal strides 2 (stem), 4, 8, 16 and 32.

    As torchvision hands them to its segmentation heads, the maps of the strides 4, 8 and 16 are the linear outputs of
    the first block at their stride, and that of stride 32 is the last 1x1 convolution, 960 channels after a hard swish.
    Where the output stride is below 32 the later blocks keep their resolution and all dilate their depthwise
    convolutions.

    Attributes:
      output_stride: 8, 16 (torchvision's `dilated`) or 32.
    """

    layouts = ("torchvision_mobilenet_v3",)

    output_stride: int = output_stride_option()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        x = conv_norm(16, 3, 2, activation=nn.hard_swish, dtype=self.dtype, name="stem")(image, train=train)
        maps, nominal = {2: x}, 2
        for i, (kernel, expanded, features, squeeze, swish, stride) in enumerate(_LARGE, 1):
            nominal *= stride
            dilation = max(nominal // self.output_stride, 1)
            x = InvertedResidual(
                features,
                expanded,
                kernel,
                stride if dilation == 1 else 1,
                dilation=dilation,
                activation=nn.hard_swish if swish else nn.relu,
                squeezed=round_channels(expanded / 4) if squeeze else 0,
                dtype=self.dtype,
                name=f"block{i}",
            )(x, train=train)
            maps.setdefault(nominal, x)
        last = conv_norm(6 * x.shape[-1], activation=nn.hard_swish, dtype=self.dtype, name="last")
        return Features({**maps, nominal: last(x, train=train)})
