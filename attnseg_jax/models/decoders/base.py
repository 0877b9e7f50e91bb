"""What decoders share: their options, the maps they ask for, the top-down path of a feature pyramid."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import Dtype
from attnseg_jax.ops.resize import resize

# Weights a skip of a nominal stride: (skip, signal, *, stride, train) -> skip; `Attention.gate` of a mechanism.
Gate = Callable[..., Float[Array, "b h w c"]]


class Decoder(nn.Module):
    """Base of all decoders: `Features` -> `Output` at the size of their maps.

    Fields are keys of `config.model.decoder.NAME`; `option` declares their ranges.

    Attributes:
      num_classes: channels of the logits. Filled by `build_model`.
      dtype: compute type; parameters, normalisation and logits are float32. Filled by `build_model`.
      visits: whether it has tokens of its own in the last blocks of a plain vision transformer: a method `visit`, which
        the backbone calls before each block, see `eomt`.
      exclusive: whether its logits mean something beside one another alone: it gives each pixel one of the classes.
      log_scores: whether its logits are logarithms of scores, so that scores are what is averaged and resized.
    """

    num_classes: int = 0
    dtype: Dtype = jnp.float32
    visits: ClassVar[bool] = False
    exclusive: ClassVar[bool] = False
    log_scores: ClassVar[bool] = False

    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits, and auxiliary logits where there are some; `gate` weights the skips of a decoder with any.

        Raises:
          OptionError: a map that the backbone does not have, an option that does not fit the maps or the others.
        """
        raise NotImplementedError


def maps_of(
    features: Features, strides: Sequence[int] | int, field: str, hint: str = ""
) -> dict[int, Float[Array, "b _y _x _c"]]:
    """The maps of these nominal strides, fine to coarse, each once.

    Args:
      features: of the backbone.
      strides: asked for; the value of the option.
      field: name of the option.
      hint: what to do about a map that is not there; by default to change the option.

    Raises:
      OptionError: the backbone has no map of one of the strides.
    """
    hint = hint or f"change {field}, or choose another backbone or decoder"
    chosen = (strides,) if isinstance(strides, int) else strides
    return {stride: features.at(stride, field, strides, hint) for stride in sorted(set(chosen))}


def check_named(strides: Sequence[int], field: str = "strides") -> None:
    """Raises OptionError where the option names no stride."""
    if not strides:
        raise OptionError(field, strides, "names no map: name some, such as (4, 8, 16, 32)")


def sum_down(
    laterals: Sequence[Float[Array, "b _y _x c"]], method: str = "bilinear"
) -> list[Float[Array, "b _y _x c"]]:
    """Maps from fine to coarse, each plus what all coarser ones hold, resized (top-down path of a feature pyramid)."""
    result = [laterals[-1]]
    for x in reversed(laterals[:-1]):
        result.insert(0, x + resize(result[0], x.shape[1:3], method))
    return result
