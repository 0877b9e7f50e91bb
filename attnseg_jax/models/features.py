"""The structs that travel between backbone, attention, decoder and caller."""

from typing import Any

from flax import struct
from jaxtyping import Array, Float


@struct.dataclass
class Features:
    """Feature maps of one image batch and what travels with them.

    Attributes:
      maps: nominal stride -> `[b, h, w, c]`. The key is the stride a stage has without dilation, so a backbone at
        output stride 8 still has the keys 16 and 32; the map's own size tells its real stride.
      extras: whatever one part hands to a later one (pooling indices, class tokens), by name.
      aux: name -> auxiliary logits `[b, y, x, k]` at any size, trained with `config.loss.aux_weight`.
      attention: name -> attention weights `[b, a, n, m]`, for looking at; unused ones cost nothing under jit.
    """

    maps: dict[int, Float[Array, "b h w c"]]
    extras: dict[str, Any] = struct.field(default_factory=dict)
    aux: dict[str, Float[Array, "b y x k"]] = struct.field(default_factory=dict)
    attention: dict[str, Array] = struct.field(default_factory=dict)

    @property
    def deepest(self) -> Float[Array, "b h w c"]:
        """The map of the largest nominal stride."""
        return self.maps[max(self.maps)]

    def with_deepest(self, x: Float[Array, "b h w c"]) -> "Features":
        """The same features with the deepest map replaced."""
        return self.replace(maps={**self.maps, max(self.maps): x})

    def with_attention(self, name: str, weights: Float[Array, "b a n m"]) -> "Features":
        """The same features with attention weights under `name` and the first free number, such as `self0`."""
        number = sum(key.rstrip("0123456789") == name for key in self.attention)
        return self.replace(attention={**self.attention, f"{name}{number}": weights})


@struct.dataclass
class Output:
    """What a model returns.

    Attributes:
      logits: float32 `[b, h, w, k]` at the input's size.
      aux: name -> auxiliary float32 logits `[b, h, w, k]` at the input's size.
      attention: name -> attention weights `[b, a, n, m]`.
    """

    logits: Float[Array, "b h w k"]
    aux: dict[str, Float[Array, "b h w k"]] = struct.field(default_factory=dict)
    attention: dict[str, Array] = struct.field(default_factory=dict)
