"""SegFormer's decoder of MLPs (Xie et al. 2021), after transformers' `modeling_segformer.py`."""

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.models.decoders.base import Decoder, Gate, check_named, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import ConvBN, Dense, classifier
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class SegFormer(Decoder):
    """Linear layers on every map, upsampled to the finest, fused by one more and classified.

    Xie et al. 2021, arXiv:2105.15203; after `SegformerDecodeHead` of github.com/huggingface/transformers. It gates no
    skips.

    Attributes:
      channels: of all layers (256 in SegFormer-B0 and B1, 768 in the larger ones).
      dropout: rate before the classifier, in training.
      strides: nominal strides of the maps to use.
    """

    channels: int = option(256, at_least=1)
    dropout: float = option(0.1, at_least=0, below=1)
    strides: tuple[int, ...] = (4, 8, 16, 32)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used."""
        check_named(self.strides)
        maps = maps_of(features, self.strides, "strides")
        size = maps[min(maps)].shape[1:3]
        levels = [
            resize(Dense(self.channels, dtype=self.dtype, name=f"linear{stride}")(x), size)
            for stride, x in reversed(maps.items())  # the original's order, for its weights
        ]
        fuse = ConvBN(self.channels, 1, dtype=self.dtype, name="fuse")
        x = fuse(jnp.concatenate(levels, axis=-1), train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Output(classifier(self.num_classes, "classifier")(x))
