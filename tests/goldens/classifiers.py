"""The classifiers that backbones were published with: scores of the classes of a whole image."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Dtype, layer_norm
from attnseg_jax.models.layers.inverted import conv_norm
from attnseg_jax.ops import pool


class MobileNetV3Head(nn.Module):
    """Scores of the classes of a whole image: mean, linear layer to 1280 channels, hard swish, dropout, linear layer.

    Attributes:
      num_classes: number of scores.
      dropout: rate before the last layer, in training.
      dtype: compute type; the scores are float32.
    """

    num_classes: int
    dropout: float = 0.2
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Float[Array, "b k"]:
        """Returns float32 scores."""
        x = features.deepest.mean((1, 2), dtype=jnp.float32)
        init = nn.initializers.normal(0.01)
        x = nn.hard_swish(nn.Dense(1280, dtype=self.dtype, kernel_init=init, name="hidden")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=init, name="classifier")(x)


class EfficientNetLiteHead(nn.Module):
    """Scores of the classes of a whole image: 1x1 convolution to 1280 channels, mean, dropout, linear layer.

    Attributes:
      num_classes: number of scores.
      dropout: rate before the linear layer, in training.
      dtype: compute type; the scores are float32.
    """

    num_classes: int
    dropout: float = 0.2
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Float[Array, "b k"]:
        """Returns float32 scores."""
        x = conv_norm(1280, activation=nn.relu6, dtype=self.dtype, name="conv")(features.deepest, train=train)
        x = x.mean((1, 2), dtype=jnp.float32)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(
            self.num_classes, dtype=jnp.float32, kernel_init=nn.initializers.normal(0.01), name="classifier"
        )(x)


class ViTHead(nn.Module):
    """Scores of the classes of a whole image: a linear layer on the class token.

    Attributes:
      num_classes: number of scores.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: Features) -> Float[Array, "b k"]:
        """Returns float32 scores."""
        return nn.Dense(self.num_classes, name="head")(features.extras["class_token"].astype(jnp.float32))


class VGGHead(nn.Module):
    """Scores of the classes of a whole image: mean over 7 x 7 bins of the deepest map, three linear layers.

    Attributes:
      num_classes: number of scores.
      dropout: rate after the first and the second layer, in training.
      dtype: compute type; the scores are float32.
    """

    num_classes: int
    dropout: float = 0.5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Float[Array, "b k"]:
        """Returns float32 scores."""
        x = pool.adaptive_avg_pool(features.deepest, 7)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # the published weights count channels first
        for number in (0, 3):
            dense = nn.Dense(
                4096, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01), name=f"classifier{number}"
            )
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(dense(x)))
        dense = nn.Dense(
            self.num_classes, dtype=jnp.float32, kernel_init=nn.initializers.normal(0.01), name="classifier6"
        )
        return dense(x)


class MeanHead(nn.Module):
    """Scores of the classes of a whole image: a linear layer on the mean of the deepest map.

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
