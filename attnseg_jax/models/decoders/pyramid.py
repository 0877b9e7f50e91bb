"""PSPNet's head (Zhao et al. 2017) and UPerNet's (Xiao et al. 2018): pooled pyramids."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import UserError, check_least
from attnseg_jax.models.decoders.base import SMP, drop_channels, maps_of, sum_down
from attnseg_jax.models.decoders.blocks import PyramidPooling
from attnseg_jax.models.decoders.fcn import SEMSEG_AUX, auxiliary
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers import ConvBN, Dtype, classifier, layer_norm
from attnseg_jax.models.pretrained import Rules
from attnseg_jax.ops.resize import resize

# hszhao/semseg, model/pspnet.py, PSPNet: `Segmenter` with the decoder `psp`, `aux=True`, after the backbone's table.
SEMSEG_PSPNET: Rules = (
    *SEMSEG_AUX,
    (r"^ppm\.features\.0\.", "decoder.pool.bin1."),
    (r"^ppm\.features\.1\.", "decoder.pool.bin2."),
    (r"^ppm\.features\.2\.", "decoder.pool.bin3."),
    (r"^ppm\.features\.3\.", "decoder.pool.bin6."),
    (r"(\.pool\.bin\d)\.1\.", r"\1.conv."),
    (r"(\.pool\.bin\d)\.2\.", r"\1.bn."),
    (r"^cls\.0\.", "decoder.conv.conv."),
    (r"^cls\.1\.", "decoder.conv.bn."),
    (r"^cls\.4\.", "decoder.classifier."),
)

# segmentation_models_pytorch.UPerNet: `Segmenter` with the decoder `uper`, `norm_maps=True`, after the encoder's table.
SMP_UPERNET: Rules = (
    *SMP,
    (r"^decoder\.feature_norms\.0\.", "decoder.norm4."),
    (r"^decoder\.feature_norms\.1\.", "decoder.norm8."),
    (r"^decoder\.feature_norms\.2\.", "decoder.norm16."),
    (r"^decoder\.feature_norms\.3\.", "decoder.norm32."),
    (r"^decoder\.psp\.blocks\.0\.1\.", "decoder.pool.bin1."),
    (r"^decoder\.psp\.blocks\.1\.1\.", "decoder.pool.bin2."),
    (r"^decoder\.psp\.blocks\.2\.1\.", "decoder.pool.bin3."),
    (r"^decoder\.psp\.blocks\.3\.1\.", "decoder.pool.bin6."),
    (r"^decoder\.psp\.out_conv\.", "decoder.lateral32."),
    (r"^decoder\.fpn_lateral_blocks\.0\.conv_norm_relu\.", "decoder.lateral16."),
    (r"^decoder\.fpn_lateral_blocks\.1\.conv_norm_relu\.", "decoder.lateral8."),
    (r"^decoder\.fpn_lateral_blocks\.2\.conv_norm_relu\.", "decoder.lateral4."),
    (r"^decoder\.fpn_conv_blocks\.0\.", "decoder.smooth16."),
    (r"^decoder\.fpn_conv_blocks\.1\.", "decoder.smooth8."),
    (r"^decoder\.fpn_conv_blocks\.2\.", "decoder.smooth4."),
    (r"^decoder\.fusion_block\.", "decoder.fuse."),
    (r"^(decoder\.(?:pool\.bin\d|lateral\d+|smooth\d+|fuse))\.0\.", r"\1.conv."),
    (r"^(decoder\.(?:pool\.bin\d|lateral\d+|smooth\d+|fuse))\.1\.", r"\1.bn."),
)


class PSP(nn.Module):
    """The deepest map beside its means over grids of bins, a 3x3 convolution and a classifier.

    Zhao et al. 2017, arXiv:1612.01105; after github.com/hszhao/semseg. Grids are enlarged with aligned corners. It
    gates no skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of the convolution.
      bins: sizes of the grids.
      bin_channels: of each grid; 0 takes the map's, divided by the number of grids.
      dropout: rate at which channels are dropped before the classifier, in training.
      aux: adds an auxiliary head on the map of nominal stride `aux_stride`.
      aux_stride: its stride.
      dtype: compute type; logits are float32.
    """

    num_classes: int
    channels: int = 512
    bins: tuple[int, ...] = (1, 2, 3, 6)
    bin_channels: int = 0
    dropout: float = 0.1
    aux: bool = False
    aux_stride: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the deepest map, and auxiliary logits.

        Raises:
          UserError: the auxiliary head asks for a map the backbone does not have; no channels or grids.
        """
        _check("psp", self.bins, channels=self.channels)
        aux = auxiliary(self, features, "psp", train=train)
        x = features.deepest
        channels = self.bin_channels or max(x.shape[-1] // len(self.bins), 1)
        x = PyramidPooling(self.bins, channels, align_corners=True, dtype=self.dtype, name="pool")(x, train=train)
        x = ConvBN(self.channels, dtype=self.dtype, name="conv")(x, train=train)
        return Output(classifier(self.num_classes, "classifier")(drop_channels(x, self.dropout, train=train)), aux)


class UPer(nn.Module):
    """A feature pyramid under a pooled one: all levels, smoothed and enlarged to the finest, are fused.

    Xiao et al. 2018, arXiv:1807.10221; after `UPerNet` of github.com/qubvel-org/segmentation_models.pytorch. It gates
    no skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of all levels and grids.
      bins: sizes of the grids over the coarsest map.
      norm_maps: normalises the channels of every map first, as segmentation_models.pytorch does and the paper does not.
      dropout: rate at which channels are dropped before the classifier, in training.
      strides: nominal strides of the maps to use.
      aux: adds an auxiliary head on the map of nominal stride `aux_stride`.
      aux_stride: its stride.
      dtype: compute type; normalisations and logits are float32.
    """

    num_classes: int
    channels: int = 256
    bins: tuple[int, ...] = (1, 2, 3, 6)
    norm_maps: bool = False
    dropout: float = 0.1
    strides: tuple[int, ...] = (4, 8, 16, 32)
    aux: bool = False
    aux_stride: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used, and auxiliary logits.

        Raises:
          UserError: a stride the backbone does not have; no channels, grids or strides.
        """
        _check("uper", self.bins, channels=self.channels)

        def conv(kernel_size: int, name: str) -> Callable:
            return ConvBN(self.channels, kernel_size, dtype=self.dtype, name=name)

        aux = auxiliary(self, features, "uper", train=train)
        maps = maps_of(features, self.strides, "uper")
        if self.norm_maps:
            maps = {stride: layer_norm(f"norm{stride}")(x).astype(self.dtype) for stride, x in maps.items()}
        *fine, coarsest = maps
        pooled = PyramidPooling(self.bins, self.channels, dtype=self.dtype, name="pool")(maps[coarsest], train=train)
        laterals = [conv(1, f"lateral{stride}")(maps[stride], train=train) for stride in fine]
        laterals.append(conv(3, f"lateral{coarsest}")(pooled, train=train))
        levels = sum_down(laterals)
        levels[:-1] = [conv(3, f"smooth{s}")(x, train=train) for s, x in zip(fine, levels[:-1], strict=True)]
        size = levels[0].shape[1:3]
        x = conv(3, "fuse")(jnp.concatenate([resize(x, size) for x in levels], axis=-1), train=train)
        return Output(classifier(self.num_classes, "classifier")(drop_channels(x, self.dropout, train=train)), aux)


def _check(name, bins, **channels):
    path = f"config.model.decoder.{name}"
    check_least(path, 1, **channels, bins=min(bins, default=0))
    if len(set(bins)) < len(bins):
        raise UserError(f"{path}.bins={bins} names a grid twice: name each size once")
