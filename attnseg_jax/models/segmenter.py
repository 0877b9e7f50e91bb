"""The composition: backbone, attention, decoder."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError
from attnseg_jax.models.attention import Attention
from attnseg_jax.models.backbones.base import backbone_features
from attnseg_jax.models.features import Output, numbered
from attnseg_jax.ops.resize import resize


class Segmenter(nn.Module):
    """An image through a backbone, an attention mechanism and a decoder into the logits of every pixel.

    Attributes:
      backbone: image -> `Features`.
      attention: `Features` -> `Features`; may gate the decoder's skips and refine its logits.
      decoder: `Features` -> `Output` at the size of its maps.
      freeze: what of the backbone stays: 'none', 'bn' or 'all' (see `backbones.base.backbone_features`).
      freeze_decoder: the decoder works in training as in evaluation. That its parameters stay is left to the train
        step, since what stands before it learns through it.
      align_corners: enlarges logits to the image with aligned corners instead of half-pixel centres.
    """

    backbone: nn.Module
    attention: Attention
    decoder: nn.Module
    freeze: str = "none"
    freeze_decoder: bool = False
    align_corners: bool = False

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Output:
        """Returns float32 logits at the size of `image` (float, normalised), auxiliary logits, attention maps.

        Raises:
          UserError: the attention mechanism gates skips and the decoder has none.
        """
        features = self.attention(backbone_features(self.backbone, image, self.freeze, train=train), train=train)
        gated = []

        # The gate trains as ever, in a frozen decoder too.
        def gate(skip, signal, *, stride, **_):
            gated.append(stride)
            return self.attention.gate(skip, signal, stride=stride, train=train)

        decoded = self.decoder(
            features, gate=gate if self.attention.has_gate else None, train=train and not self.freeze_decoder
        )
        if self.attention.has_gate and not gated:
            raise UserError(
                "config.model.attention.name: 'gate' weights a decoder's skips, and this decoder has none: choose "
                f"another mechanism or give it some, such as config.model.decoder.fcn.skips=({min(features.maps)},)"
                + (f", or set {features.hint}" if features.hint else "")
            )
        logits, refined = self.attention.refine(decoded.logits, features)
        h, w = image.shape[1:3]

        def full(x: Array) -> Array:
            x = resize(x.astype(jnp.float32), features.padded_size or (h, w), align_corners=self.align_corners)
            return x[:, :h, :w]

        aux = {name: full(x) for name, x in {**features.aux, **decoded.aux}.items()}
        presence = {name: x.astype(jnp.float32) for name, x in {**features.presence, **decoded.presence}.items()}
        attention = numbered({**features.attention, **decoded.attention}, refined)
        return Output(full(logits), aux, presence, attention)
