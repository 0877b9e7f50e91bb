"""What every attention mechanism offers to the model around it, and the residual loop that several share."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.features import Features, check_map
from attnseg_jax.models.layers.conv import Dense, Dtype, layer_norm
from attnseg_jax.models.layers.residual import mlp, mlp_width
from attnseg_jax.models.options import option


def lead_width(channels: int, x: Float[Array, "b h w c"]) -> int:
    """`channels`, or where that is 0 those of `x` up to 512, the width that heads of ResNet-50 have in the literature.

    >>> import numpy as np
    >>> lead_width(0, np.zeros((1, 2, 3, 64))), lead_width(0, np.zeros((1, 2, 3, 2048)))
    (64, 512)
    """
    return channels or min(x.shape[-1], 512)


class Attention(nn.Module):
    """Base of all mechanisms; one that changes the deepest map overrides `attend`, and that is all it needs.

    Fields are keys of `config.model.attention.NAME`; `option` declares their ranges. A mechanism that needs more than
    the deepest map overrides `__call__`; one that acts in or after the decoder `gate` or `refine`. All of these may be
    `nn.compact`; submodules of `refine` and `gate` need names of their own, those of `gate` one for each stride. What
    they attend to they leave by `attnseg_jax.models.records.sow_record`; an option that does not fit the map raises
    `OptionError`.

    Attributes:
      num_classes: of the data; filled by `build_model`, for mechanisms that predict.
      dtype: compute type; parameters, softmax and normalisation are float32. Filled by `build_model`.
      has_gate: whether the mechanism gates a decoder's skips.
    """

    num_classes: int = 0
    dtype: Dtype = jnp.float32
    has_gate: ClassVar[bool] = False

    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over."""
        x = self.attend(features.deepest, train=train)
        check_map(x, f"{type(self).__name__}.attend")
        return features.with_deepest(x)

    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b _h _w _c"]:
        """Returns the deepest map after attention (unchanged here)."""
        return x

    def refine(self, logits: Float[Array, "b h w k"], features: Features) -> Float[Array, "b h w k"]:
        """Returns the decoder's logits, at the decoder's resolution, after refinement (unchanged here)."""
        return logits

    def gate(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, stride: int, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns a decoder's skip of nominal `stride`, weighted by the coarser `signal` (unchanged here)."""
        return skip


class ResidualAttention(Attention):
    """`layers` times `x + attend(norm(x))` on the deepest map, and where `mlp_ratio` asks for it `x + mlp(norm(x))`.

    A subclass overrides `attend`, which sees the normalised map and is called in a scope of its own for each layer.

    Attributes:
      channels: the map is first projected to this many channels; 0 keeps the backbone's.
      layers: how many attention layers follow one another.
      mlp_ratio: hidden width of a two-layer MLP after each attention, in channels; 0 leaves it out.
      norm: layer normalisation before attention.
    """

    channels: int = option(0, at_least=0)
    layers: int = option(1, at_least=1, at_most=100)
    mlp_ratio: float = option(0.0, at_least=0, at_most=1000)
    norm: bool = True

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over."""
        x = features.deepest
        if self.channels:
            x = Dense(self.channels, dtype=self.dtype, name="project")(x)
        hidden = mlp_width(x.shape[-1], self.mlp_ratio) if self.mlp_ratio else 0
        for i in range(self.layers):
            y = layer_norm(f"norm{i}")(x) if self.norm else x
            # Itself, once more for each layer: the parameters of `attend` lie in `attention0`, `attention1`, ...
            layer = self.clone(parent=self, name=f"attention{i}")
            y = layer.attend(y.astype(self.dtype), train=train)
            check_map(y, f"{type(self).__name__}.attend", within=x.shape)
            x = x + y
            if hidden:
                y = layer_norm(f"mlp_norm{i}")(x).astype(self.dtype)
                x = x + mlp(y, hidden, self.dtype, suffix=str(i))
        return features.with_deepest(x)
