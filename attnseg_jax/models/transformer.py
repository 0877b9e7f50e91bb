"""What the transformer backbones and ConvNeXt share: block, perceptron, stochastic depth, head for classification."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError
from attnseg_jax.models.attention.self_attention import MultiHeadAttention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers import Dtype, layer_norm
from attnseg_jax.models.pretrained import Rules

# The linear classifier of timm's, torchvision's and transformers' models: `MeanHead`, `backbones.vit.ViTHead`.
CLASS_HEAD: Rules = ((r"^classifier\.", "head."), (r"^(?!head\.).*", None))


def drop_path_rates(rate: float, depth: int, *, key: str) -> list[float]:
    """Rates that grow linearly from 0 in the first of `depth` blocks to `rate` in the last (Huang et al. 2016).

    Raises:
      UserError: a rate below 0, or one of 1 and more, which leaves nothing; the message calls it `key`.

    >>> drop_path_rates(0.5, 3, key="drop_path")
    [0.0, 0.25, 0.5]
    """
    if not 0 <= rate < 1:
        raise UserError(f"{key}={rate} must be at least 0 and less than 1")
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def drop_path(branch: Float[Array, "b *n c"], rate: float, *, train: bool) -> Float[Array, "b *n c"]:
    """In training zeros a whole image's branch at this rate and makes up for it in the others; called in a module."""
    return nn.Dropout(rate, broadcast_dims=tuple(range(1, branch.ndim)), deterministic=not train)(branch)


def scale_channels(
    module: nn.Module, name: str, branch: Float[Array, "b *n c"], initial: float
) -> Float[Array, "b *n c"]:
    """LayerScale (Touvron et al. 2021, arXiv:2103.17239): the branch times a parameter of `module` per channel."""
    scale = module.param(name, nn.initializers.constant(initial), (branch.shape[-1],), jnp.float32)
    return branch * scale.astype(branch.dtype).reshape((1,) * (branch.ndim - 1) + (-1,))


def perceptron(x: Float[Array, "b *n c"], width: int, dtype: Dtype) -> Float[Array, "b *n c"]:
    """Two linear layers around an exact GELU, `mlp_in` and `mlp_out` of the module it is called in."""
    y = nn.Dense(width, dtype=dtype, name="mlp_in")(x)
    return nn.Dense(x.shape[-1], dtype=dtype, name="mlp_out")(nn.gelu(y, approximate=False))


class Block(nn.Module):
    """`x + attend(norm(x))`, then `x + mlp(norm(x))` over tokens (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Attributes:
      heads: number of heads, a divisor of the channels.
      mlp_ratio: hidden width of the perceptron, in channels.
      layer_scale: what the factors of both branches start at; 0 leaves them out.
      drop_path: rate at which a branch is dropped, in training.
      norm_epsilon: added to the variance in layer normalisation.
      impl: how attention is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    heads: int
    mlp_ratio: float = 4.0
    layer_scale: float = 0.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool = False) -> Float[Array, "b n c"]:
        """Returns the tokens after attention and perceptron."""
        y = layer_norm("norm1", self.norm_epsilon)(x).astype(self.dtype)
        y, _ = MultiHeadAttention(self.heads, impl=self.impl, dtype=self.dtype, name="attention")(y, y)
        x = x + self._branch("layer_scale1", y, train)
        y = layer_norm("norm2", self.norm_epsilon)(x).astype(self.dtype)
        y = perceptron(y, int(x.shape[-1] * self.mlp_ratio), self.dtype)
        return x + self._branch("layer_scale2", y, train)

    def _branch(self, name: str, y: Array, train: bool) -> Array:
        y = scale_channels(self, name, y, self.layer_scale) if self.layer_scale else y
        return drop_path(y, self.drop_path, train=train)


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
