"""The block of plain vision transformers."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from attnseg_jax.models.layers.attention import multi_head
from attnseg_jax.models.layers.conv import Dtype, layer_norm
from attnseg_jax.models.layers.residual import drop_path, gated_mlp, mlp, scale_channels
from attnseg_jax.models.records import DotProductMap, sow_record


class BlockAttention(nn.Module):
    """`multi_head` of the tokens with themselves, as a module of a `Block`, whose fields and arguments it has."""

    heads: int
    key_bias: bool
    impl: str
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        rotate: Callable[[Array], Array] | None,
        tail_mask: Bool[Array, "b #a t n"] | None,
    ) -> tuple[Float[Array, "b n c"], DotProductMap]:
        """Returns the attended tokens and who attends to what, as `multi_head`."""
        return multi_head(
            x, x, heads=self.heads, rotate=rotate, tail_mask=tail_mask, key_bias=self.key_bias, impl=self.impl,
            dtype=self.dtype,
        )  # fmt: skip


class Block(nn.Module):
    """`x + attend(norm(x))`, then `x + mlp(norm(x))` over tokens (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Attributes:
      heads: number of heads, a divisor of the channels.
      mlp_ratio: hidden width of the MLP, in channels.
      gated: a gated MLP, SwiGLU.
      key_bias: whether the projection of the keys has a bias.
      layer_scale: what the factors of both branches start at; 0 leaves them out.
      drop_path: rate at which a branch is dropped, in training.
      norm_epsilon: added to the variance in layer normalisation.
    """

    heads: int
    mlp_ratio: float = 4.0
    gated: bool = False
    key_bias: bool = True
    layer_scale: float = 0.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-6
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n c"],
        *,
        rotate: Callable[[Array], Array] | None = None,
        tail_mask: Bool[Array, "b #a t n"] | None = None,
        record: Callable[[DotProductMap], DotProductMap] | None = None,
        train: bool = False,
    ) -> Float[Array, "b n c"]:
        """Returns the tokens after attention and MLP.

        Args:
          x: the tokens.
          rotate: as in `multi_head`.
          tail_mask: where the last tokens may look; all others look everywhere.
          record: cuts out of what those attend to what is recorded, as `queries`.
          train: whether branches are dropped.
        """
        y = layer_norm("norm1", self.norm_epsilon)(x).astype(self.dtype)
        attend = BlockAttention(self.heads, self.key_bias, self.impl, self.dtype, name="attention")
        y, seen = attend(y, rotate, tail_mask)
        if record is not None:
            sow_record(self, "queries", record(seen))
        x = x + self._branch("layer_scale1", y, train)
        y = layer_norm("norm2", self.norm_epsilon)(x).astype(self.dtype)
        y = (gated_mlp if self.gated else mlp)(y, int(x.shape[-1] * self.mlp_ratio), self.dtype)
        return x + self._branch("layer_scale2", y, train)

    def _branch(self, name: str, y: Array, train: bool) -> Array:
        y = scale_channels(self, name, y, self.layer_scale) if self.layer_scale else y
        return drop_path(y, self.drop_path, train=train)
