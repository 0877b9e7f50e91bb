"""U-Net's decoder (Ronneberger et al. 2015), of segmentation_models_pytorch's form or Attention U-Net's."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_known, check_least
from attnseg_jax.models.attention.gate import LEEJUNHYUN
from attnseg_jax.models.attention.scse import SMP_SCSE, SCSEBlock
from attnseg_jax.models.decoders.base import SMP, gated
from attnseg_jax.models.features import Features, Output, numbered
from attnseg_jax.models.layers import ConvBN, Dtype, classifier
from attnseg_jax.models.maps import LookedAt
from attnseg_jax.models.pretrained import Rules
from attnseg_jax.ops.resize import resize

# segmentation_models_pytorch.Unet of depth 5, with scSE or without: `Segmenter` with the decoder `unet`, after the
# encoder's table.
SMP_UNET: Rules = (
    *SMP,
    (r"^decoder\.blocks\.4\.attention1\..*", None),  # it belongs to a skip, and the last block has none
    (r"^decoder\.blocks\.0\.", "decoder.block16."),
    (r"^decoder\.blocks\.1\.", "decoder.block8."),
    (r"^decoder\.blocks\.2\.", "decoder.block4."),
    (r"^decoder\.blocks\.3\.", "decoder.block2."),
    (r"^decoder\.blocks\.4\.", "decoder.block1."),
    (r"^(decoder\.block\d+\.conv\d)\.0\.", r"\1.conv."),
    (r"^(decoder\.block\d+\.conv\d)\.1\.", r"\1.bn."),
    (r"^(decoder\.block\d+)\.attention(\d)\.attention\.", r"\1.scse\2."),
    *SMP_SCSE,
)

# LeeJunHyun/Image_Segmentation, network.py, AttU_Net without its encoder: `Segmenter` with attention `gate`,
# `form="leejunhyun"`, and the decoder `unet`, `form="leejunhyun"`, `channels=(512, 256, 128, 64)`.
LEEJUNHYUN_ATTUNET: Rules = (
    (r"^(Up|Att|Up_conv)5\.", r"\g<1>_8."),
    (r"^(Up|Att|Up_conv)4\.", r"\g<1>_4."),
    (r"^(Up|Att|Up_conv)3\.", r"\g<1>_2."),
    (r"^(Up|Att|Up_conv)2\.", r"\g<1>_1."),
    (r"^Up_(\d)\.up\.1\.", r"decoder.block\1.up.conv."),
    (r"^Up_(\d)\.up\.2\.", r"decoder.block\1.up.bn."),
    (r"^Up_conv_(\d)\.conv\.0\.", r"decoder.block\1.conv1.conv."),
    (r"^Up_conv_(\d)\.conv\.1\.", r"decoder.block\1.conv1.bn."),
    (r"^Up_conv_(\d)\.conv\.3\.", r"decoder.block\1.conv2.conv."),
    (r"^Up_conv_(\d)\.conv\.4\.", r"decoder.block\1.conv2.bn."),
    (r"^Att_(\d)\.", r"attention.gate\1."),
    *LEEJUNHYUN,
    (r"^Conv_1x1\.", "decoder.classifier."),
)

FORMS = ("smp", "leejunhyun")


class UNetBlock(nn.Module):
    """The map, enlarged to the skip's size and set beside it, through two 3x3 convolutions.

    Attributes:
      features: output channels.
      stride: nominal, of the skip.
      form: 'smp', or 'leejunhyun', which convolves what it enlarged before the gate sees it, puts the skip first and
        has biases.
      scse: gates what is set together and what comes out by channels and positions, in every image.
      dtype: compute type.
    """

    features: int
    stride: int
    form: str = "smp"
    scse: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b y x c"],
        skip: Float[Array, "b h w d"] | None,
        gate: Callable | None,
        attention: dict[str, LookedAt],
        *,
        train: bool,
    ) -> tuple[Float[Array, "b h w o"], dict[str, LookedAt]]:
        """Returns the finer map, twice as large where there is no skip, and `attention` with what the gates did."""
        lee = self.form == "leejunhyun"

        def conv(name: str, x: Array) -> Array:
            return ConvBN(self.features, use_bias=lee, dtype=self.dtype, name=name)(x, train=train)

        def scse(name: str, x: Array) -> Array:
            nonlocal attention
            if self.scse:
                x, maps = SCSEBlock(dtype=self.dtype, name=name)(x)
                attention = numbered(attention, maps)
            return x

        signal = x
        x = resize(x, (2 * x.shape[1], 2 * x.shape[2]) if skip is None else skip.shape[1:3], "nearest")
        if lee:
            x = signal = conv("up", x)
        if skip is not None:
            skip, attention = gated(gate, skip, signal, attention, stride=self.stride, train=train)
            skip = skip.astype(self.dtype)
            x = scse("scse1", jnp.concatenate([skip, x] if lee else [x, skip], axis=-1))
        return scse("scse2", conv("conv2", conv("conv1", x))), attention


class UNet(nn.Module):
    """From the deepest map up to the image's size, with every finer map of the backbone as a skip on the way.

    Ronneberger et al. 2015, arXiv:1505.04597; after `Unet` of github.com/qubvel-org/segmentation_models.pytorch, or
    after `AttU_Net` of github.com/LeeJunHyun/Image_Segmentation. Where the backbone has no map of a stride the way goes
    on without a skip; the last stride is 1. A mechanism may gate the skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of the blocks, coarse to fine, the last at stride 1; a backbone of a smaller stride takes the last ones.
      form: 'smp', or 'leejunhyun', which convolves what it enlarged before the gate sees it, puts the skip first and
        has biases.
      scse: gates channels and positions in every block (Roy et al. 2018, arXiv:1803.02579).
      dtype: compute type; logits are float32.
    """

    num_classes: int
    channels: tuple[int, ...] = (256, 128, 64, 32, 16)
    form: str = "smp"
    scse: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map at stride 1, or else at twice that at stride 2.

        Raises:
          UserError: an unknown form, or too few channels for the backbone's stride.
        """
        path = "config.model.decoder.unet"
        check_known(path, FORMS, form=self.form)
        check_least(path, 1, channels=min(self.channels, default=0))
        deepest = max(features.maps)
        strides = [deepest >> i for i in range(1, deepest.bit_length())]
        if len(strides) > len(self.channels):
            raise UserError(
                f"{path}.channels={self.channels} are those of {len(self.channels)} blocks; the backbone's stride "
                f"{deepest} takes {len(strides)}: name so many"
            )
        x, attention = features.deepest, {}
        for stride, channels in zip(strides, self.channels[-len(strides) :], strict=True):
            block = UNetBlock(channels, stride, self.form, self.scse, self.dtype, name=f"block{stride}")
            x, attention = block(x, features.maps.get(stride), gate, attention, train=train)
        kernel_size = 3 if self.form == "smp" else 1
        return Output(classifier(self.num_classes, "classifier", kernel_size)(x), attention=attention)
