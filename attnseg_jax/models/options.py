"""Options of models: fields of a module that are keys of a config, with the ranges that they are declared with."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from flax import linen as nn

from attnseg_jax.errors import OptionError, nearest

# Fields that the builder fills, therefore no keys of a config.
FILLED = ("parent", "name", "dtype", "num_classes")
_RANGE = "attnseg_jax range"


@dataclasses.dataclass(frozen=True)
class Range:
    """What values an option may have; of a tuple each of its numbers.

    Attributes:
      at_least: smallest value.
      at_most: largest value.
      below: bound that is no value.
      choices: the values.
      odd: whether only odd numbers will do.
      lengths: how many numbers a tuple may have; () for any.
    """

    at_least: int | float | None = None
    at_most: int | float | None = None
    below: int | float | None = None
    choices: Collection[Any] = ()
    odd: bool = False
    lengths: tuple[int, ...] = ()

    def refusal(self, value: Any) -> str:
        """Why `value` cannot be, as the rest of a sentence; "" where it can.

        >>> Range(at_least=0, below=1).refusal(1.0), Range(choices=("sum", "mean")).refusal("men")
        ('must be at least 0 and below 1', "is unknown: did you mean 'mean'?")
        """
        if self.choices:
            if value in self.choices:
                return ""
            if isinstance(value, str):
                return f"is unknown: {nearest(value, self.choices)}"
            return f"is unknown: choose {_either(self.choices)}"
        numbers = value if isinstance(value, tuple) else (value,)
        fits = not isinstance(value, tuple) or not self.lengths or len(value) in self.lengths
        return "" if fits and all(map(self._holds, numbers)) else f"must be {self._wanted(value)}"

    def _holds(self, number: Any) -> bool:
        if not isinstance(number, int | float):
            return False
        # Comparisons in this form are false for NaN.
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
            and (not self.odd or number % 2 == 1)
        )

    def _wanted(self, value: Any) -> str:
        bounds = (("at least", self.at_least), ("at most", self.at_most), ("below", self.below))
        words = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        if not isinstance(value, tuple):
            return " and ".join(filter(None, ["odd" if self.odd else "", words])) or "a number"
        counts = " or ".join(map(str, self.lengths))
        kind = "odd numbers" if self.odd else "numbers"
        return " of ".join(filter(None, [f"{counts} {kind}".strip(), words]))


def _either(values: Collection[Any]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def option(default: Any, **limits: Any) -> Any:
    """A field of a module that is a key of a config; `limits` are those of `Range`, which building a model checks.

    >>> class Blur(nn.Module):
    ...     kernel: int = option(3, at_least=1, odd=True)
    >>> check_options(Blur(kernel=4))
    Traceback (most recent call last):
    attnseg_jax.errors.OptionError: kernel=4 must be odd and at least 1
    """
    return dataclasses.field(default=default, metadata={_RANGE: Range(**limits)})


def options(module: type[nn.Module], filled: Collection[str] = ()) -> dict[str, Any]:
    """The options of a module and their defaults: its fields but those in `FILLED` or `filled`.

    >>> class Blur(nn.Module):
    ...     num_classes: int
    ...     kernel: int = option(3, at_least=1, odd=True)
    >>> options(Blur)
    {'kernel': 3}
    """
    return {f.name: f.default for f in dataclasses.fields(module) if f.name not in {*FILLED, *filled}}


def ranges(module: type[nn.Module]) -> Mapping[str, Range]:
    """The declared ranges of a module's options."""
    return {f.name: f.metadata[_RANGE] for f in dataclasses.fields(module) if _RANGE in f.metadata}


def check_options(module: nn.Module) -> None:
    """Raises OptionError for the first option of a module that is out of its declared range."""
    for field, limits in ranges(type(module)).items():
        value = getattr(module, field)
        if refusal := limits.refusal(value):
            raise OptionError(field, value, refusal)
