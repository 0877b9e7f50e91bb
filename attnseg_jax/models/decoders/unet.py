"""U-Net's decoder (Ronneberger et al. 2015), of segmentation_models_pytorch's form or Attention U-Net's."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.scse import SCSE
from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class UNetBlock(nn.Module):
    """The map, upsampled to the skip's size and set beside it, through two 3x3 convolutions.

    Attributes:
      features: output channels.
      stride: nominal, of the skip.
      form: as in `UNet`.
      scse: gates what is set together and what comes out by channels and positions, in every image.
    """

    features: int
    stride: int
    form: str = "smp"
    scse: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b y x c"], skip: Float[Array, "b h w d"] | None, gate: Gate | None, *, train: bool
    ) -> Float[Array, "b h w o"]:
        """Returns the finer map, twice as large where there is no skip."""
        lee = self.form == "leejunhyun"

        def conv(name: str, x: Array) -> Array:
            return ConvBN(self.features, use_bias=lee, dtype=self.dtype, name=name)(x, train=train)

        def scse(name: str, x: Array) -> Array:
            return SCSE(dtype=self.dtype, name=name).attend(x, train=train) if self.scse else x

        signal = x
        x = resize(x, (2 * x.shape[1], 2 * x.shape[2]) if skip is None else skip.shape[1:3], "nearest")
        if lee:
            x = signal = conv("up", x)
        if skip is not None:
            skip = gate(skip, signal, stride=self.stride, train=train) if gate else skip
            skip = skip.astype(self.dtype)
            x = scse("scse1", jnp.concatenate([skip, x] if lee else [x, skip], axis=-1))
        return scse("scse2", conv("conv2", conv("conv1", x)))


def steps_up(features: Features, channels: tuple[int, ...]) -> list[tuple[int, int]]:
    """The strides from the deepest map up to 1, each half of the one before, with the last of the `channels` each.

    Raises:
      OptionError: fewer `channels` than strides.
    """
    deepest = max(features.maps)
    strides = [deepest >> i for i in range(1, deepest.bit_length())]
    if len(strides) > len(channels):
        hint = (
            f"are those of {len(channels)} blocks; the backbone's stride {deepest} takes {len(strides)}: name so many"
        )
        raise OptionError("channels", channels, hint)
    return list(zip(strides, channels[-len(strides) :], strict=True))


class UNet(Decoder):
    """From the deepest map up to the image's size, with every finer map of the backbone as a skip on the way.

    Ronneberger et al. 2015, arXiv:1505.04597; after `Unet` of github.com/qubvel-org/segmentation_models.pytorch, or
    after `AttU_Net` of github.com/LeeJunHyun/Image_Segmentation. Where the backbone has no map of a stride the way goes
    on without a skip; the last stride is 1. A mechanism may gate the skips.

    Attributes:
      channels: of the blocks, coarse to fine, the last at stride 1; a backbone of a smaller stride takes the last ones.
      form: 'smp', or 'leejunhyun', which convolves what it upsampled before the gate sees it, puts the skip first and
        has biases.
      scse: gates channels and positions in every block (Roy et al. 2018, arXiv:1803.02579).
    """

    channels: tuple[int, ...] = option((256, 128, 64, 32, 16), at_least=1)
    form: str = option("smp", choices=("smp", "leejunhyun"))
    scse: bool = False

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map at stride 1, or else at twice that at stride 2."""
        x = features.deepest
        for stride, channels in steps_up(features, self.channels):
            block = UNetBlock(channels, stride, self.form, self.scse, self.dtype, name=f"block{stride}")
            x = block(x, features.maps.get(stride), gate, train=train)
        kernel_size = 3 if self.form == "smp" else 1
        return Output(classifier(self.num_classes, "classifier", kernel_size)(x))
