"""SegFormer's decoder of MLPs (Xie et al. 2021), after transformers' `modeling_segformer.py`."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import check_least, check_rate
from attnseg_jax.models.decoders.base import maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier
from attnseg_jax.ops.resize import resize


class SegFormer(nn.Module):
    """Linear layers on every map, enlarged to the finest, fused by one more and classified.

    Xie et al. 2021, arXiv:2105.15203; after `SegformerDecodeHead` of github.com/huggingface/transformers. It gates no
    skips.

    Attributes:
      num_classes: channels of the logits.
      channels: of all layers (256 in SegFormer-B0 and B1, 768 in the larger ones).
      dropout: rate before the classifier, in training.
      strides: nominal strides of the maps to use.
      dtype: compute type; logits are float32.
    """

    num_classes: int
    channels: int = 256
    dropout: float = 0.1
    strides: tuple[int, ...] = (4, 8, 16, 32)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used.

        Raises:
          UserError: a stride the backbone does not have; no channels or strides.
        """
        check_least("config.model.decoder.segformer", 1, channels=self.channels)
        check_rate("config.model.decoder.segformer", dropout=self.dropout)
        maps = maps_of(features, self.strides, "segformer")
        size = maps[min(maps)].shape[1:3]
        levels = [
            resize(nn.Dense(self.channels, dtype=self.dtype, name=f"linear{stride}")(x), size)
            for stride, x in reversed(maps.items())  # the original's order, for its weights
        ]
        fuse = ConvBN(self.channels, 1, dtype=self.dtype, name="fuse")
        x = fuse(jnp.concatenate(levels, axis=-1), train=train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Output(classifier(self.num_classes, "classifier")(x))
