"""Fully convolutional head (Long et al. 2015), after torchvision's `models/segmentation/fcn.py`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.decoders.base import Decoder, Gate, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class FCNHead(nn.Module):
    """3x3 convolutions (each with normalisation and ReLU), dropout and a 1x1 classifier.

    Attributes:
      num_classes: channels of the logits.
      channels: of the 3x3 convolutions; 0 takes a quarter of the input's.
      dropout: rate before the classifier, in training.
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


class FCN(Decoder):
    """Logits of the deepest map, with optional skips.

    With `skips` the logits are summed with 1x1 scores of finer maps, coarse to fine, as FCN-16s and FCN-8s do; the
    result then has the size of the finest skip.

    Attributes:
      channels: of the head's 3x3 convolutions; 0 takes a quarter of the map's.
      convs: number of the head's 3x3 convolutions; 0 leaves a classifier, for mechanisms that end in a convolution.
      dropout: rate before the classifiers, in training.
      skips: nominal strides of the maps to add, such as `(8, 4)`.
    """

    channels: int = option(0, at_least=0)
    convs: int = option(1, at_least=0, at_most=100)
    dropout: float = option(0.1, at_least=0, below=1)
    skips: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used."""
        skips = maps_of(features, self.skips, "skips", "change skips")
        head = FCNHead(self.num_classes, self.channels, self.dropout, self.dtype, self.convs, name="head")
        x = features.deepest
        logits = head(x, train=train)
        for stride, skip in reversed(skips.items()):
            skip = gate(skip, x, stride=stride, train=train) if gate else skip
            skip = nn.Dropout(self.dropout, deterministic=not train)(skip)
            score = classifier(self.num_classes, f"skip{stride}")(skip)
            logits = resize(logits, score.shape[1:3]) + score
        return Output(logits)
