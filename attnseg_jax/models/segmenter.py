"""The composition: backbone, attention, decoder."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention import Attention
from attnseg_jax.models.features import Output
from attnseg_jax.ops.resize import resize


class Segmenter(nn.Module):
    """An image through a backbone, an attention mechanism and a decoder into the logits of every pixel.

    Attributes:
      backbone: image -> `Features`.
      attention: `Features` -> `Features`; may gate the decoder's skips and refine its logits.
      decoder: `Features` -> logits and auxiliary logits.
    """

    backbone: nn.Module
    attention: Attention
    decoder: nn.Module

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Output:
        """Returns float32 logits at the size of `image` (float, normalised), auxiliary logits, attention weights."""
        features = self.attention(self.backbone(image, train=train), train=train)
        gate = self.attention.gate if self.attention.has_gate else None
        logits, aux = self.decoder(features, gate=gate, train=train)
        logits = self.attention.refine(logits, features)

        def full(x: Array) -> Array:
            return resize(x.astype(jnp.float32), image.shape[1:3])

        aux = {name: full(x) for name, x in {**features.aux, **aux}.items()}
        return Output(full(logits), aux, features.attention)
