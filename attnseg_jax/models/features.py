"""The structs that travel between backbone, attention, decoder and caller."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import struct
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError, UserError


def check_map(x: Any, who: str, *, channels: int = 0, within: tuple[int, ...] = ()) -> None:
    """Refuses what a part returned as a map and is none; `who` returned it.

    Args:
      x: an array `[b, h, w, c]`, or something else.
      who: the part, and its method where that is not the only one.
      channels: that it must have; 0 is any number.
      within: the shape of the map that it is added to.

    >>> check_map(None, "Mine.attend")
    Traceback (most recent call last):
    attnseg_jax.errors.UserError: Mine.attend returned NoneType; it must return an array [b, h, w, c]
    """
    shape = getattr(x, "shape", None)
    wanted = f"an array [b, h, w, {channels or 'c'}]"
    fits = shape is not None and len(shape) == 4 and shape[3] == (channels or shape[3])
    if within:
        wanted = f"what is added to a map {within}, such as an array of that shape"
        fits = fits and all(n in (1, whole) for n, whole in zip(shape, within, strict=True))
    if not fits:
        found = type(x).__name__ if shape is None else f"an array {shape}"
        raise UserError(f"{who} returned {found}; it must return {wanted}")


@struct.dataclass
class Features:
    """Feature maps of one image batch and what travels with them.

    Attributes:
      maps: nominal stride -> `[b, h, w, c]`. The key is the stride a stage has without dilation, so a backbone at
        output stride 8 still has the keys 16 and 32; the map's own size tells its real stride.
      extras: whatever one part hands to a later one (pooling indices, class tokens), by name.
      aux: name -> auxiliary logits `[b, y, x, k]` at any size, trained with `config.loss.aux_weight`.
      presence: name -> logits `[b, k]` of "the image shows this class", trained with `config.loss.presence_weight`.
      padded_size: height and width in pixels of what the maps cover, where a backbone padded the image at the bottom
        and right; None for the image itself.
      hint: the backbone's option that gives maps of more strides, where it has one; for messages.
    """

    maps: dict[int, Float[Array, "b h w c"]]
    extras: dict[str, Any] = struct.field(default_factory=dict)
    aux: dict[str, Float[Array, "b _y _x k"]] = struct.field(default_factory=dict)
    presence: dict[str, Float[Array, "b k"]] = struct.field(default_factory=dict)
    padded_size: tuple[int, int] | None = struct.field(pytree_node=False, default=None)
    hint: str = struct.field(pytree_node=False, default="")

    @property
    def deepest(self) -> Float[Array, "b h w c"]:
        """The map of the largest nominal stride."""
        return self.maps[max(self.maps)]

    def at(self, stride: int, field: str, value: Any, hint: str) -> Float[Array, "b h w c"]:
        """The map of a nominal stride, which the option `field=value` asks for.

        Raises:
          OptionError: the backbone has none; it names the strides there are and what to do, `hint`.
        """
        if stride not in self.maps:
            strides = ", ".join(map(str, sorted(self.maps)))
            hint = f"set {self.hint}, or {hint}" if self.hint else hint
            raise OptionError(field, value, f"asks for a map of stride {stride}; the backbone has {strides}: {hint}")
        return self.maps[stride]

    def with_deepest(self, x: Float[Array, "b h w c"]) -> "Features":
        """The same features with the deepest map replaced."""
        return self.replace(maps={**self.maps, max(self.maps): x})

    def with_aux(self, name: str, logits: Float[Array, "b _y _x k"]) -> "Features":
        """The same features with auxiliary logits under `name`, with a number from 1 on where it is taken."""
        return self.replace(aux={**self.aux, _free(name, self.aux): logits})

    def with_presence(self, name: str, logits: Float[Array, "b k"]) -> "Features":
        """The same features with logits of the classes an image shows, named likewise."""
        return self.replace(presence={**self.presence, _free(name, self.presence): logits})


def _free(name: str, taken: dict[str, Any]) -> str:
    """`name`, or where a mechanism was stacked on its like `name1` and so on, so that both are trained."""
    names = itertools.chain([name], (f"{name}{number}" for number in itertools.count(1)))
    return next(name for name in names if name not in taken)


class Place(NamedTuple):
    """Where the patches are among the tokens of a plain vision transformer, for who visits its blocks.

    Attributes:
      first: number of the first patch's token; the others follow row by row.
      grid: rows and columns of patches.
      norm: the transformer's last normalisation.
    """

    first: int
    grid: tuple[int, int]
    norm: Callable[[Array], Array]

    @property
    def last(self) -> int:
        """Number of the token behind the patches."""
        return self.first + self.grid[0] * self.grid[1]


@struct.dataclass
class Queries:
    """What queries predict, each a class and where it is.

    Attributes:
      classes: float32 logits `[b, q, k + 1]`, the last of no object.
      masks: float32 logits `[b, q, y, x]` at any size.
      size: height and width in pixels of what the masks cover; filled by the model around the decoder.
    """

    classes: Float[Array, "b q j"]
    masks: Float[Array, "b q y x"]
    size: tuple[int, int] = struct.field(pytree_node=False, default=(0, 0))


@struct.dataclass
class Output:
    """What a model returns, at the input's size; a decoder returns the same at the size of its maps.

    What attention did is not part of it: see `attnseg_jax.models.records`.

    Attributes:
      logits: float32 `[b, h, w, k]`; None of a decoder whose queries stand for them, as
        `ops.mask_classification.resized_semantic_logits` says.
      aux: name -> auxiliary float32 logits `[b, h, w, k]`; those of a decoder may differ in size.
      presence: name -> float32 logits `[b, k]` of the classes an image shows.
      queries: what queries predict, None of a decoder without any; masks keep their size.
      aux_queries: name -> what they predicted in an earlier layer, in the same shapes. `aux` may have the same by
        pixels, under that name.
      edges: float32 logits `[b, h, w, 1]` of "classes meet here", where a decoder has a head for that.
    """

    logits: Float[Array, "b h w k"] | None
    aux: dict[str, Float[Array, "b _y _x k"]] = struct.field(default_factory=dict)
    presence: dict[str, Float[Array, "b k"]] = struct.field(default_factory=dict)
    queries: Queries | None = None
    aux_queries: dict[str, Queries] = struct.field(default_factory=dict)
    edges: Float[Array, "b _y _x 1"] | None = None


def check_returned(x: Any, kind: type, who: str, *, channels: int = 0) -> None:
    """Refuses what a part returned and is not of `kind`: `Features`, `Output`, or else a map; `who` returned it.

    `channels`, where it is not 0, must be those of the map, or of the output's logits, for which queries may
    stand.

    >>> check_returned(Features({}), Features, "Mine")
    Traceback (most recent call last):
    attnseg_jax.errors.UserError: Mine returned no map; it must return Features of at least one
    """
    if kind not in (Features, Output):
        check_map(x, who, channels=channels)
        return
    if not isinstance(x, kind):
        raise UserError(f"{who} returned {type(x).__name__}; it must return {kind.__module__}.{kind.__name__}")
    if kind is Output and x.logits is None and x.queries is not None:
        _check_queries(x.queries, who, channels)
        return
    maps = {who: x.logits} if kind is Output else {f"{who} (stride {stride})": y for stride, y in x.maps.items()}
    if not maps:
        raise UserError(f"{who} returned no map; it must return Features of at least one")
    for name, y in maps.items():
        check_map(y, name, channels=channels)


def _check_queries(queries: Queries, who: str, channels: int) -> None:
    found = [getattr(x, "shape", ()) for x in (queries.classes, queries.masks)]
    fits = [len(shape) for shape in found] == [3, 4] and found[0][:2] == found[1][:2]
    if not fits or found[0][2] != (channels or found[0][2] - 1) + 1:
        k = channels or "k"
        raise UserError(f"{who} returned queries {found}; they must be [b, q, {k} + 1] and [b, q, y, x]")
