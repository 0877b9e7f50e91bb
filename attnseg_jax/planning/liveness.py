"""An estimate of the memory of a program that no compiler here knows: how much lives at once, step by step."""

import math
from typing import Any

from jax.extend.core import Literal, jaxprs_in_params

# What a compiler fuses into whatever reads it, or only looks at in another way.
_VIEWS = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "iota", "convert_element_type", "transpose", "copy"}


def peak_bytes(jaxpr: Any) -> int:
    """The most bytes that live at once beside the arguments while a program runs in the order in which it is written.

    Every intermediate result counts as if it were stored, except views. A compiler stores fewer, and reorders.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> peak_bytes(jax.make_jaxpr(lambda x: (jnp.sin(x) * jnp.cos(x)).sum())(jnp.ones((5, 7))).jaxpr)  # three of x
    420
    """
    last: dict[Any, int] = {}
    root: dict[Any, Any] = {}

    def source(variable: Any) -> Any:
        return root.get(variable, variable)

    for place, equation in enumerate(jaxpr.eqns):
        inputs = [variable for variable in equation.invars if not isinstance(variable, Literal)]
        if equation.primitive.name in _VIEWS and inputs:
            root[equation.outvars[0]] = source(inputs[0])
        for variable in inputs:
            last[source(variable)] = place
    for variable in jaxpr.outvars:
        if not isinstance(variable, Literal):
            last[source(variable)] = len(jaxpr.eqns)

    alive: dict[Any, int] = {}
    most = now = 0
    for place, equation in enumerate(jaxpr.eqns):
        for variable in equation.outvars:
            if variable not in root:
                alive[variable] = _bytes(variable.aval)
                now += alive[variable]
        within = (_within(getattr(body, "jaxpr", body), equation) for body in jaxprs_in_params(equation.params))
        most = max(most, now + max(within, default=0))
        ended = {source(v) for v in [*equation.invars, *equation.outvars] if not isinstance(v, Literal)}
        for variable in ended:
            if last.get(variable, -1) <= place and variable in alive:
                now -= alive.pop(variable)
    return most


def _within(body: Any, equation: Any) -> int:
    """What lives in the body of a call or loop beside its results, but for the slices of what a loop stacks."""
    results = zip(body.outvars, equation.outvars)
    shared = sum(_bytes(made.aval) for inside, made in results if inside.aval.shape == made.aval.shape)
    return max(peak_bytes(body) - shared, 0)


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval, "shape") else 0
