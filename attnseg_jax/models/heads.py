"""Class scores of whole images from a backbone's features."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.features import Features
from attnseg_jax.models.layers import layer_norm
from attnseg_jax.models.pretrained import Rules

# The linear classifier of timm's, torchvision's and transformers' models: `MeanHead`, `backbones.vit.ViTHead`.
CLASS_HEAD: Rules = ((r"^classifier\.", "head."), (r"^(?!head\.).*", None))


class MeanHead(nn.Module):
    """Class scores of whole images: a linear layer on the mean of the deepest map, as the originals' classifiers.

    Attributes:
      num_classes: number of scores.
      norm: layer normalisation of the mean, as ConvNeXt has it.
    """

    num_classes: int
    norm: bool = False

    @nn.compact
    def __call__(self, features: Features) -> Float[Array, "b k"]:
        """Returns float32 scores."""
        x = features.deepest.astype(jnp.float32).mean((1, 2))
        x = layer_norm("norm")(x) if self.norm else x
        return nn.Dense(self.num_classes, name="head")(x)
