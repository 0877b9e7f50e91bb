"""A linear probe: what features tell without a decoder that learns to read them."""

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.models.decoders.base import Decoder, Gate, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import BatchNorm, classifier
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class Linear(Decoder):
    """Batch normalisation and a 1x1 classifier, for features that stay as they are (`backbone.freeze='all'`).

    As DINOv2 is evaluated (Oquab et al. 2023, arXiv:2304.07193; `BNHead` of github.com/facebookresearch/dinov2). It
    gates no skips.

    Attributes:
      batch_norm: normalises the channels first, so that features of any size are learned at one rate.
      dropout: rate before the classifier, in training.
      strides: nominal strides of the maps, which are set beside the finest of them; () takes the deepest map alone.
    """

    batch_norm: bool = True
    dropout: float = option(0.0, at_least=0, below=1)
    strides: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used."""
        maps = list(maps_of(features, self.strides, "strides").values()) or [features.deepest]
        x = jnp.concatenate([resize(x, maps[0].shape[1:3]) for x in maps], axis=-1)
        x = BatchNorm(dtype=self.dtype, name="bn")(x, train=train) if self.batch_norm else x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Output(classifier(self.num_classes, "classifier")(x))
