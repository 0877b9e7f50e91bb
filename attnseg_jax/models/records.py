"""Attention records: who attends to what, and what a gate lets through.

A module sows them (`sow_record`) into the collection `RECORDS`, which `model.apply(..., mutable=[RECORDS])` returns
and `attention_records` reads; without `mutable` they are not computed. `keys` and the sizes say where a weight belongs
in the picture, so that one drawing routine serves every mechanism.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from attnseg_jax.ops import attention as attention_ops

Size = tuple[int, int] | None


@struct.dataclass
class AttentionMap:
    """Weights that every query gives to its keys.

    Attributes:
      weights: float32 `[b, a, n, s]`; each row sums to 1, or to 0 where a query may attend to nothing.
      keys: `[n, s]`, position `y * width + x` of each key on the map of `key_size`, -1 outside it; None where the `s`
        keys are all positions in order.
      query_size: height and width of the queries' map, `n = h * w`; None where queries are no pixels (class tokens).
      key_size: height and width of the keys' map; None where keys are no pixels (regions, channels).
    """

    weights: Float[Array, "b a n s"]
    keys: Int[Array, "n s"] | None = None
    query_size: Size = struct.field(pytree_node=False, default=None)
    key_size: Size = struct.field(pytree_node=False, default=None)

    def rows(self, queries: Int[Array, "r"]) -> Float[Array, "b a r s"]:
        """The weights of some queries, by their numbers."""
        return jnp.take(self.weights, queries, axis=2)


@struct.dataclass
class DotProductMap:
    """An `AttentionMap` over all keys that is computed when asked for: an `n x m` array may be far too large to keep.

    Attributes:
      q: queries `[b, n, a, d]`.
      k: keys `[b, m, a, d]`.
      bias: as in `dot_product_attention`.
      mask: likewise.
      scale: likewise.
      softmax: False where the weights are `scale * q . k` as they are, of either sign, without bias and mask.
      query_size: as in `AttentionMap`.
      key_size: likewise.
    """

    q: Float[Array, "b n a d"]
    k: Float[Array, "b m a d"]
    bias: Float[Array, "#b #a #n #m"] | None = None
    mask: Bool[Array, "#b #a #n #m"] | None = None
    scale: float | None = struct.field(pytree_node=False, default=None)
    softmax: bool = struct.field(pytree_node=False, default=True)
    query_size: Size = struct.field(pytree_node=False, default=None)
    key_size: Size = struct.field(pytree_node=False, default=None)
    keys = None

    @property
    def weights(self) -> Float[Array, "b a n m"]:
        """All weights, float32."""
        if not self.softmax:
            return self.scale * jnp.einsum("bnad,bmad->banm", self.q, self.k, preferred_element_type=jnp.float32)
        return attention_ops.attention_weights(self.q, self.k, bias=self.bias, mask=self.mask, scale=self.scale)

    def rows(self, queries: Int[Array, "r"]) -> Float[Array, "b a r m"]:
        """The weights of some queries, by their numbers; those of the others are not computed."""

        def of(x: Array | None) -> Array | None:
            return x if x is None or x.shape[2] == 1 else jnp.take(x, queries, axis=2)

        return self.replace(q=jnp.take(self.q, queries, axis=1), bias=of(self.bias), mask=of(self.mask)).weights


@struct.dataclass
class SampledMap:
    """An `AttentionMap` over all pixels of a map of which queries see some points, computed when asked for.

    A point counts for the pixels around it by its bilinear weights, and a row of weights sums to less than 1 where
    points lie outside the map.

    Attributes:
      locations: `(x, y)` in [0, 1], `[b, n, a, p, 2]`.
      point_weights: `[b, n, a, p]`.
      query_size: as in `AttentionMap`.
      key_size: height and width of the map.
    """

    locations: Float[Array, "b n a p 2"]
    point_weights: Float[Array, "b n a p"]
    query_size: Size = struct.field(pytree_node=False, default=None)
    key_size: Size = struct.field(pytree_node=False, default=None)
    keys = None

    @property
    def weights(self) -> Float[Array, "b a n m"]:
        """All weights, float32."""
        return attention_ops.point_shares(self.locations, self.point_weights, self.key_size)

    def rows(self, queries: Int[Array, "r"]) -> Float[Array, "b a r m"]:
        """The weights of some queries, by their numbers; those of the others are not computed."""
        some = [jnp.take(x, queries, axis=1) for x in (self.locations, self.point_weights)]
        return attention_ops.point_shares(*some, self.key_size)


@struct.dataclass
class GateMap:
    """Factors that a gate gives to a map.

    Attributes:
      values: float32 `[b, y, x, c]` between 0 and 1: `y = x = 1` for a gate of channels, `c = 1` for one of positions.
    """

    values: Float[Array, "b y x c"]


AttentionRecord = AttentionMap | DotProductMap | SampledMap | GateMap

RECORDS = "attention"


def sow_record(module: nn.Module, name: str, record: AttentionRecord | Callable[[], AttentionRecord]) -> None:
    """Leaves a record under `name`, where the caller of the model asked for records; "" leaves none.

    One that takes computing is given as a function, which is then called.
    """
    if name and module.is_mutable_collection(RECORDS) and not module.is_initializing():
        module.sow(RECORDS, name, record() if callable(record) else record)


def attention_records(collection: Mapping[str, Any]) -> dict[str, AttentionRecord]:
    """The records of the collection `RECORDS`, called by their name and a number, such as `self0` and `self1`.

    Numbers follow the paths of the modules: `parts_2` comes before `parts_10`, the attention before the decoder.

    >>> list(attention_records({"parts_10": {"self": ("a",)}, "parts_2": {"self": ("b", "c"), "gate": ("d",)}}))
    ['gate0', 'self0', 'self1', 'self2']
    """
    result: dict[str, AttentionRecord] = {}
    counts: dict[str, int] = {}
    for name, record in _sown(collection):
        number = counts.get(name, 0)
        counts[name], result[f"{name}{number}"] = number + 1, record
    return result


def _sown(node: Mapping[str, Any]) -> Iterator[tuple[str, AttentionRecord]]:
    for key in sorted(node, key=_natural):
        if isinstance(node[key], Mapping):
            yield from _sown(node[key])
        else:
            yield from ((key, record) for record in node[key])


def _natural(key: str) -> list[tuple[int, str]]:
    """Order in which 2 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]
