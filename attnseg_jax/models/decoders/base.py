"""What decoders share: the maps they ask for, the way down a pyramid, names of published weights."""

from collections.abc import Callable, Collection, Sequence

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError
from attnseg_jax.models.features import Features, numbered
from attnseg_jax.models.records import AttentionRecord
from attnseg_jax.ops.resize import resize


def maps_of(
    features: Features, strides: Collection[int], name: str, hint: str = ""
) -> dict[int, Float[Array, "b _y _x _c"]]:
    """The maps of these nominal strides, fine to coarse, each once.

    Args:
      features: of the backbone.
      strides: asked for.
      name: of the decoder in the config.
      hint: what the user can do about a map that is not there; by default what mends the key `strides`.

    Raises:
      UserError: the backbone has no map of one of the strides, or none is asked for and no hint given.
    """
    path = f"config.model.decoder.{name}"
    if not strides and not hint:
        raise UserError(f"{path}.strides=() names no map: name some, such as (4, 8, 16, 32)")
    hint = hint or "change strides, or choose another backbone or decoder"
    return {stride: features.at(stride, path, hint) for stride in sorted(set(strides))}


def gated(
    gate: Callable | None,
    skip: Float[Array, "b h w c"],
    signal: Float[Array, "b y x d"],
    attention: dict[str, AttentionRecord],
    *,
    stride: int,
    train: bool,
) -> tuple[Float[Array, "b h w c"], dict[str, AttentionRecord]]:
    """The skip of a nominal stride after the mechanism's gate, if it has one, and `attention` with what it did."""
    if gate is None:
        return skip, attention
    skip, maps = gate(skip, signal, stride=stride, train=train)
    return skip, numbered(attention, maps)


def sum_down(
    laterals: Sequence[Float[Array, "b _y _x c"]], method: str = "bilinear"
) -> list[Float[Array, "b _y _x c"]]:
    """Maps from fine to coarse, each plus what all coarser ones hold, resized (the way down of a feature pyramid)."""
    result = [laterals[-1]]
    for x in reversed(laterals[:-1]):
        result.insert(0, x + resize(result[0], x.shape[1:3], method))
    return result


def drop_channels(x: Float[Array, "b h w c"], rate: float, *, train: bool) -> Float[Array, "b h w c"]:
    """Dropout of whole channels, in training."""
    return nn.Dropout(rate, broadcast_dims=(1, 2), deterministic=not train)(x)


def group_norm(groups: int, name: str, epsilon: float = 1e-5) -> nn.GroupNorm:
    """Group normalisation in float32 by two passes; flax's default, one pass, loses what is small beside its mean."""
    return nn.GroupNorm(groups, epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)
