"""Fully convolutional head (Long et al. 2015), after torchvision's `models/segmentation/fcn.py`."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import check_least, check_rate
from attnseg_jax.models.decoders.base import gated, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier
from attnseg_jax.ops.resize import resize


class FCNHead(nn.Module):
    """3x3 convolutions (each with normalisation and rectifier), dropout and a 1x1 classifier.

    Attributes:
      num_classes: channels of the logits.
      channels: of the 3x3 convolutions; 0 takes a quarter of the input's.
      dropout: rate before the classifier, in training.
      dtype: compute type.
      convs: number of 3x3 convolutions.
    """

    num_classes: int
    channels: int = 0
    dropout: float = 0.1
    dtype: Dtype = jnp.float32
    convs: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w k"]:
        """Returns logits at the size of `x`."""
        channels = self.channels or max(x.shape[-1] // 4, 1)
        for i in range(self.convs):
            x = ConvBN(channels, dtype=self.dtype, name=f"conv{i or ''}")(x, train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return classifier(self.num_classes, "classifier")(x)


def auxiliary(
    decoder: nn.Module, features: Features, name: str, *, dropout: float = 0.1, train: bool
) -> dict[str, Float[Array, "b y x k"]]:
    """The logits of an `FCNHead` on the map of stride `decoder.aux_stride`, by name, if `decoder.aux` asks for them.

    Raises:
      UserError: the backbone has no such map; `name` is the decoder's in the config.
    """
    if not decoder.aux:
        return {}
    maps = maps_of(features, (decoder.aux_stride,), name, "change aux_stride, or set aux=False")
    head = FCNHead(decoder.num_classes, dropout=dropout, dtype=decoder.dtype, name="aux_head")
    return {"fcn": head(maps[decoder.aux_stride], train=train)}


class FCN(nn.Module):
    """Logits of the deepest map, with optional skips and an optional auxiliary head.

    With `skips` the logits are summed with 1x1 scores of finer maps, coarse to fine, as FCN-16s and FCN-8s do; the
    result then has the size of the finest skip.

    Attributes:
      num_classes: channels of the logits.
      channels: of the head's 3x3 convolutions; 0 takes a quarter of the map's.
      convs: number of the head's 3x3 convolutions; 0 leaves a classifier, for mechanisms that end in a convolution.
      dropout: rate before the classifiers, in training.
      skips: nominal strides of the maps to add, such as `(8, 4)`.
      aux: adds an auxiliary head on the map of nominal stride `aux_stride`.
      aux_stride: its stride.
      dtype: compute type.
    """

    num_classes: int
    channels: int = 0
    convs: int = 1
    dropout: float = 0.1
    skips: tuple[int, ...] = ()
    aux: bool = False
    aux_stride: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits and auxiliary logits, each at the size of its map.

        Raises:
          UserError: a skip or the auxiliary head asks for a map the backbone does not have; an option out of its range.
        """
        skips = maps_of(features, self.skips, "fcn", "change skips")
        check_least("config.model.decoder.fcn", 0, channels=self.channels, convs=self.convs)
        check_rate("config.model.decoder.fcn", dropout=self.dropout)
        aux = auxiliary(self, features, "fcn", dropout=self.dropout, train=train)
        head = FCNHead(self.num_classes, self.channels, self.dropout, self.dtype, self.convs, name="head")
        x = features.deepest
        logits = head(x, train=train)
        attention: dict = {}
        for stride, skip in reversed(skips.items()):
            skip, attention = gated(gate, skip, x, attention, stride=stride, train=train)
            skip = nn.Dropout(self.dropout, deterministic=not train)(skip)
            score = classifier(self.num_classes, f"skip{stride}")(skip)
            logits = resize(logits, score.shape[1:3]) + score
        return Output(logits, aux, attention=attention)
