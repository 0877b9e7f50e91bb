"""A traced program as plain data, which a process that has jax but not this project binds again."""

import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array

Program = Callable[[Array], dict[str, Array]]
"""image -> outputs by name"""
Forms = Mapping[str, Callable[..., Any]]

# Calls whose program is run in their place, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# Ours, and the function among their parameters that they stand for.
_FUNCTIONS = {"unless_on_gpus": "default", "linear_map": "forward"}
_LOOPS = ("scan", "while", "cond")


def plain(function: Program, image: jax.ShapeDtypeStruct, forms: Forms = MappingProxyType({})) -> Program:
    """`function` of an image as primitives of `jax.lax` alone, those for the CPU, without calls and derivatives.

    Args:
      function: image -> outputs by name.
      image: its shape, which may have symbols, and type.
      forms: by the name of a primitive what stands for it, called like `Primitive.bind`.
    """
    traced, outputs = jax.make_jaxpr(function, return_shape=True)(image)
    return lambda image: dict(zip(sorted(outputs), _evaluated(traced, forms, image), strict=True))


def told(function: Program, image: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """The primitives of a function of `plain` as data.

    Returns:
      Of types of Python, NumPy and jax, that pickle takes: `names` of the outputs, and a program of `inputs`,
      `outputs`, `equations` `(primitive, inputs, outputs, parameters)` and `constants`, all by number.
    """
    traced, outputs = jax.make_jaxpr(plain(function, image), return_shape=True)(image)
    return {"names": sorted(outputs), **_program(traced)}


def _evaluated(closed: ClosedJaxpr, forms: Forms, *inputs: Any) -> Sequence[Any]:
    """What the program computes, each call in it replaced by what it calls."""
    jaxpr, values = closed.jaxpr, {}
    values.update(zip(jaxpr.constvars, closed.consts))
    values.update(zip(jaxpr.invars, inputs, strict=True))
    for equation in jaxpr.eqns:
        given = [x.val if isinstance(x, Literal) else values[x] for x in equation.invars]
        found = _bound(equation.primitive, given, equation.params, forms)
        values.update(zip(equation.outvars, found, strict=True))
    return [x.val if isinstance(x, Literal) else values[x] for x in jaxpr.outvars]


def _bound(primitive: Any, given: Sequence[Any], params: Mapping[str, Any], forms: Forms) -> Sequence[Any]:
    name = primitive.name
    if name == "platform_index":
        # For `cond`, which is told the platforms, too.
        return [np.int32(0)]
    if name == "optimization_barrier":
        return given
    if platforms := params.get("branches_platforms"):
        branch = next(place for place, names in enumerate(platforms) if names is None or "cpu" in names)
        return _evaluated(params["branches"][branch], forms, *given[1:])
    if name in _CALLS:
        return _evaluated(_closed(params[_CALLS[name]]), forms, *given)
    if name in _FUNCTIONS:
        return _evaluated(jax.make_jaxpr(params[_FUNCTIONS[name]])(*given), forms, *given)
    if name in _LOOPS:
        params = {key: _rewritten(value, forms) for key, value in params.items()}
    found = forms.get(name, primitive.bind)(*given, **params)
    return found if primitive.multiple_results else [found]


def _closed(program: Any) -> ClosedJaxpr:
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, ())


def _rewritten(value: Any, forms: Forms) -> Any:
    """A parameter of a loop: programs get the same treatment."""
    if isinstance(value, ClosedJaxpr):
        return jax.make_jaxpr(functools.partial(_evaluated, value, forms))(*value.in_avals)
    return tuple(_rewritten(x, forms) for x in value) if type(value) is tuple else value


def _program(closed: ClosedJaxpr) -> dict[str, Any]:
    numbers: dict[Any, int] = {}

    def number(variable: Any) -> Any:
        if isinstance(variable, Literal):
            return np.asarray(variable.val, variable.aval.dtype)
        return numbers.setdefault(variable, len(numbers))

    jaxpr = closed.jaxpr
    return {
        "inputs": [number(x) for x in jaxpr.invars],
        "types": [(_plain(x.aval.shape), np.dtype(x.aval.dtype)) for x in jaxpr.invars],
        "constants": {number(x): np.asarray(value) for x, value in zip(jaxpr.constvars, closed.consts)},
        "equations": [
            (
                equation.primitive.name,
                [number(x) for x in equation.invars],
                [number(x) for x in equation.outvars],
                {name: _plain(value) for name, value in equation.params.items()},
            )
            for equation in jaxpr.eqns
        ],
        "outputs": [number(x) for x in jaxpr.outvars],
    }


def _plain(value: Any) -> Any:
    """A parameter; programs become `("program", closed, data)` and sizes of symbols `("size", text)`."""
    if isinstance(value, ClosedJaxpr):
        return "program", True, _program(value)
    if isinstance(value, Jaxpr):
        return "program", False, _program(ClosedJaxpr(value, ()))
    if export.is_symbolic_dim(value):
        return "size", str(value)
    if isinstance(value, (tuple, list)):
        parts = [_plain(x) for x in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, enum.Enum) or not callable(value):
        return value
    if isinstance(value, type) and issubclass(value, np.generic):
        return np.dtype(value)
    return None
