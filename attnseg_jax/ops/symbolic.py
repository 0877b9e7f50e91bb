"""Sizes that are symbols, as in exported programs that take images of any size."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export


def is_symbolic(*sizes: Any) -> bool:
    """Whether any of the sizes is a symbol.

    >>> is_symbolic(3, 5), is_symbolic(3, *export.symbolic_shape("h, 5"))
    (False, True)
    """
    return any(map(export.is_symbolic_dim, sizes))


def numpy_of(*sizes: Any) -> ModuleType:
    """The NumPy that tables for these sizes are made with: jax's where the program itself has to make them.

    >>> numpy_of(3, 5).__name__, numpy_of(*export.symbolic_shape("h, 5")).__name__
    ('numpy', 'jax.numpy')
    """
    return jnp if is_symbolic(*sizes) else np


def any_below(least: int, *sizes: Any) -> bool:
    """Whether any of the sizes is surely below `least`.

    >>> any_below(3, 5, 2), any_below(3, *export.symbolic_shape("h, 5")), any_below(3, *export.symbolic_shape("h, 2"))
    (True, False, True)
    """
    return any(surely(lambda size=size: size < least) for size in sizes)


def surely(comparison: Callable[[], bool]) -> bool:
    """Whether a comparison of sizes holds whatever stands for the symbols in them.

    >>> (h,) = export.symbolic_shape("h")
    >>> surely(lambda: h >= 1), surely(lambda: h >= 2), surely(lambda: 3 >= 2)
    (True, False, True)
    """
    try:
        return bool(comparison())
    except jax.errors.InconclusiveDimensionOperation:
        return False
