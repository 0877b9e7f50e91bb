"""Options of models: fields of a module that are keys of a config, with the ranges that they are declared with."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, get_args, get_origin

from flax import linen as nn

from attnseg_jax.errors import OptionError, nearest

# Fields that the builder fills, therefore no keys of a config.
FILLED = ("parent", "name", "dtype", "num_classes")
_RANGE = "attnseg_jax range"

# Beyond it no model could be built, and to try would take minutes; of a whole number without a range of its own.
LARGEST = 2**16
# Of float32, in which models compute.
LARGEST_FLOAT = 3.4e38
# Numbers of a tuple.
LONGEST = 64
_KINDS = {int: "whole number", float: "number", bool: "truth value", str: "text"}


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
            if isinstance(value, str) and all(isinstance(choice, str) for choice in self.choices):
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
        words = " and ".join(
            f"{word} {bound if isinstance(bound, int) else f'{bound:g}'}" for word, bound in bounds if bound is not None
        )
        if not isinstance(value, tuple):
            return " and ".join(filter(None, ["odd" if self.odd else "", words])) or "a number"
        counts = " or ".join(map(str, self.lengths))
        kind = "odd numbers" if self.odd else "numbers"
        return " of ".join(filter(None, [f"{counts} {kind}".strip(), words]))


def type_refusal(value: Any, kind: Any) -> str:
    """Why `value` is none of a type such as `int`, `float` or `tuple[int, ...]`, as the rest of a sentence.

    Numbers are finite, and True is none; a whole number is a float too. "" where it is one, or the type is another.

    >>> type_refusal((1.5, 2), tuple[int, ...]), type_refusal(float("nan"), float), type_refusal(2, float)
    ('must be a tuple of whole numbers', 'must be a number that float32 can hold', '')
    """
    if kind in _KINDS:
        return "" if _is(value, kind) else f"must be a {_KINDS[kind]}{' that float32 can hold' * (kind is float)}"
    if get_origin(kind) is not tuple or not {*get_args(kind)} <= {*_KINDS, ...}:
        return ""
    item, *others = get_args(kind)
    count = None if others == [...] else 1 + len(others)
    good = isinstance(value, tuple) and all(_is(x, item) for x in value)
    if good and (len(value) <= LONGEST if count is None else len(value) == count):
        return ""
    if good and count is None:
        return f"must have at most {LONGEST} entries"
    held = " that float32 can hold" * (item is float)
    return f"must be a tuple of {'' if count is None else f'{count} '}{_KINDS[item]}s{held}"


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        kind = int | float
        if isinstance(value, int | float) and not abs(value) <= LARGEST_FLOAT:
            return False
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


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
    """Raises OptionError for the first option of a module that is out of its declared range, or of another type.

    Types are those of the annotations. Whole numbers have a largest value, declared or not.
    """
    declared = ranges(type(module))
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        limits = declared.get(field.name, Range())
        refusal = (limits.refusal(value) if field.name in declared else "") or type_refusal(value, field.type)
        whole = field.type is int or (get_origin(field.type) is tuple and get_args(field.type)[0] is int)
        if whole and not refusal and limits.at_most is None:
            refusal = Range(at_most=LARGEST).refusal(value)
        if refusal and field.name not in FILLED:
            raise OptionError(field.name, value, refusal)
