"""The losses of `config.loss.name`, one or a sum of several."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.ops import losses as ops
from attnseg_jax.parts import check_takes, is_outside, resolve

# Name -> (logits, labels, **options) -> (sum, count); the count depends on the labels only.
LOSSES: dict[str, Callable] = {
    "cross_entropy": ops.cross_entropy,
    "ohem": ops.ohem,
    "focal": ops.focal,
    "dice": ops.dice,
    "jaccard": ops.jaccard,
    "tversky": ops.tversky,
    "lovasz": ops.lovasz,
    "boundary": ops.boundary,
}
# Given by the objective to a loss that takes them, therefore not keys of a loss's group.
_FILLED = ("class_weights", "label_smoothing", "axis_name")


class Loss(NamedTuple):
    """One of the losses that are summed.

    Attributes:
      name: a key of `LOSSES`; of a loss from outside the package what follows the colon.
      scale: its factor in the sum.
      function: (logits, labels, **options) -> (sum, count).
      options: what the config sets.
      filled: those of `class_weights`, `label_smoothing` and `axis_name` that it takes.
    """

    name: str
    scale: float
    function: Callable[..., tuple[Float[Array, ""], Float[Array, ""]]]
    options: Mapping[str, Any]
    filled: tuple[str, ...]

    def __call__(
        self, logits: Float[Array, "b h w k"], labels: Int[Array, "b h w *c"], **given: Any
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The sum over this device and what it is divided by; of what is `given`, the loss gets what it takes.

        Raises:
          UserError: the function returns something else.
        """
        result = self.function(logits, labels, **self.options, **{key: given[key] for key in self.filled})
        if not (isinstance(result, tuple) and len(result) == 2 and all(map(is_scalar, result))):
            raise UserError(
                f"the loss {self.name!r} must return a sum and a count, two scalars, not {described(result)}"
            )
        return result


def is_scalar(x: Any) -> bool:
    """Whether `x` is one number, of Python or an array of no axes."""
    return isinstance(x, int | float) or getattr(x, "shape", None) == ()


def described(x: Any) -> str:
    """What a function returned, for messages.

    >>> import numpy as np
    >>> described((1.0, np.zeros((2, 3)))), described(None)
    ('(float, an array (2, 3))', 'NoneType')
    """
    if isinstance(x, tuple):
        return f"({', '.join(map(described, x))})"
    return f"an array {x.shape}" if hasattr(x, "shape") else type(x).__name__


def options(loss: Callable) -> dict[str, Any]:
    """The options of a loss and their defaults: the keys of its group in a config.

    >>> options(LOSSES["focal"])
    {'gamma': 2.0, 'alpha': -1.0, 'normalized': False}
    """
    parameters = inspect.signature(loss).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _FILLED}


def make_losses(
    name: str,
    scales: Sequence[float] = (),
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
) -> tuple[Loss, ...]:
    """The losses that a config names.

    Args:
      name: keys of `LOSSES` or names from outside the package (`package.module:loss`), joined by '+'.
      scales: a factor for each of them; () is 1.
      groups: name -> its options ('custom' -> those of the losses from outside); what is left out takes its default.
      num_classes: channels of the logits.
      label_smoothing: refused where no loss takes it.

    Raises:
      UserError: an unknown name or option, classes that the data do not have; ranges are `config.check_values`' matter.

    >>> [loss.name for loss in make_losses("cross_entropy+dice", (1.0, 0.5), num_classes=7)]
    ['cross_entropy', 'dice']
    """
    names = name.split("+")
    if "mask_classification" in names:
        raise UserError(
            f"config.loss.name={name!r}: 'mask_classification' is no loss of pixels: name it alone, with "
            "config.objective.name='supervised'"
        )
    for part in names:
        if part not in LOSSES and not is_outside(part):
            raise UserError(f"config.loss.name={name!r}: {part!r} is unknown: {nearest(part, LOSSES)}")
    if len({part.rpartition(":")[2] for part in names}) < len(names):
        raise UserError(f"config.loss.name={name!r} names a loss twice: give it a larger factor in config.loss.scales")
    if scales and not (len(scales) == len(names) and all(isinstance(s, int | float) and s > 0 for s in scales)):
        raise UserError(
            f"config.loss.scales={tuple(scales)} must be () or {len(names)} numbers above 0, one for each of {name}"
        )
    losses = tuple(
        _make_loss(part, scale, groups or {}, num_classes) for part, scale in zip(names, scales or [1.0] * len(names))
    )
    if label_smoothing and not any("label_smoothing" in loss.filled for loss in losses):
        raise UserError(
            f"config.loss.label_smoothing={label_smoothing} does nothing in {name}: set it to 0, or add cross_entropy"
        )
    return losses


def _make_loss(name: str, scale: float, groups: Mapping[str, Mapping[str, Any]], num_classes: int) -> Loss:
    function = resolve(LOSSES, name, "config.loss.name")
    if not callable(function):
        raise UserError(f"config.loss.name={name!r} is no function of logits and labels")
    group = "custom" if is_outside(name) else name
    path, known, given = f"config.loss.{group}", options(function), dict(groups.get(group, {}))
    for key in given:
        if key not in known:
            raise UserError(f"{path}.{key} is unknown: {nearest(key, known)}")
    if "classes" in given:
        given["classes"] = tuple(given["classes"])
        if not all(isinstance(c, int) and 0 <= c < num_classes for c in given["classes"]):
            must = f"train ids from 0 to {num_classes - 1}"
            if num_classes == 1:
                must = "(): with config.data.mode='binary' there is one output alone"
            raise UserError(f"{path}.classes={given['classes']} must be {must}")
    filled = tuple(key for key in _FILLED if key in inspect.signature(function).parameters)
    check_takes(function, f"config.loss.name={name!r}", None, None, **given, **dict.fromkeys(filled))
    return Loss(name.rpartition(":")[2], scale, function, given, filled)
