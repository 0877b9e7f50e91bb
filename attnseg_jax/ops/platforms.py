"""The platform that a program is for, and functions that have another form on GPUs.

That form is chosen when a program is lowered: an exported one holds both. `jax.lax.platform_dependent` would leave a
conditional in the programs of every platform.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType
from jaxtyping import Array

from attnseg_jax.ops.linear_map import linear_map

_PORTABLE = contextvars.ContextVar("portable", default=False)
_ELSEWHERE: contextvars.ContextVar[tuple[str, int] | None] = contextvars.ContextVar("elsewhere", default=None)


@contextlib.contextmanager
def tracing_for(platform: str, devices: int) -> Iterator[None]:
    """Within it programs are traced for so many devices of a platform, `cpu`, `gpu` or `tpu`, that need not be here.

    >>> with tracing_for("tpu", 8):
    ...     target_platform(), target_devices()
    ('tpu', 8)
    """
    token = _ELSEWHERE.set((platform, devices))
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Within it programs are traced in forms that suit any platform, attention without the kernels of accelerators.

    For programs that are exported: these kernels are custom calls, which no other version has to know.
    """
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def is_portable() -> bool:
    """Whether programs are traced for any platform, see `portable`.

    >>> with portable():
    ...     is_portable()
    True
    """
    return _PORTABLE.get()


def target_platform() -> str:
    """The platform that programs are traced for: `tracing_for`'s, else this process's own."""
    elsewhere = _ELSEWHERE.get()
    return elsewhere[0] if elsewhere else jax.default_backend()


def target_devices() -> int:
    """The number of devices that programs are traced for."""
    elsewhere = _ELSEWHERE.get()
    return elsewhere[1] if elsewhere else jax.device_count()


def unless_on_gpus(default: Callable[..., Array], on_gpus: Callable[..., Array]) -> Callable[..., Array]:
    """`default`, and in programs for GPUs `on_gpus`, whose results have the same shape. Each form has its derivatives.

    >>> unless_on_gpus(jax.numpy.add, jax.numpy.subtract)(1.0, 2.0).item()  # on any other platform
    3.0
    """
    return lambda *arrays: _choice.bind(*arrays, default=default, on_gpus=on_gpus)


def spread_by_the_compiler() -> bool:
    """Whether the arrays of the current trace lie on several devices, over which the compiler spreads the work.

    >>> spread_by_the_compiler()
    False
    """
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.size > 1 and AxisType.Auto in mesh.axis_types


def fence(x: Array) -> Array:
    """`x`; on GPUs XLA fuses nothing across it, in the result and in the gradient.

    >>> jax.grad(lambda x: fence(x) ** 2)(3.0).item()
    6.0
    """
    return linear_map(_fenced, _fenced, (), x)


def _fenced(_, x):
    return unless_on_gpus(lambda x: x, lax.optimization_barrier)(x)


_choice = Primitive("unless_on_gpus")


@_choice.def_impl
def _run(*arrays, **forms):
    return jax.jit(lambda *arrays: _choice.bind(*arrays, **forms))(*arrays)


@_choice.def_abstract_eval
def _type(*types, default, on_gpus):
    return jax.make_jaxpr(default)(*types).out_avals[0]


def _tangent(primals: Sequence[Any], tangents: Sequence[Any], **forms):
    """Each form's own, linear in one tangent after the other."""

    def part(i, tangent):
        def of_one(form, residuals):
            return lambda x: form(*residuals[:i], x, *residuals[i + 1 :])

        def push(form, *residuals_and_tangent):
            *residuals, tangent = residuals_and_tangent
            return jax.jvp(of_one(form, residuals), (residuals[i],), (tangent,))[1]

        def pull(form, *residuals_and_cotangent):
            *residuals, cotangent = residuals_and_cotangent
            return jax.vjp(of_one(form, residuals), residuals[i])[1](cotangent)[0]

        def of_forms(move):
            chosen = unless_on_gpus(**{name: functools.partial(move, form) for name, form in forms.items()})
            return lambda residuals, x: chosen(*residuals, x)

        return linear_map(of_forms(push), of_forms(pull), tuple(primals), tangent)

    parts = [part(i, tangent) for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero)]
    return _choice.bind(*primals, **forms), functools.reduce(jnp.add, parts)


def _batched(arrays: Sequence[Any], axes: Sequence[int | None], **forms):
    return unless_on_gpus(**{name: jax.vmap(form, axes) for name, form in forms.items()})(*arrays), 0


ad.primitive_jvps[_choice] = _tangent
batching.primitive_batchers[_choice] = _batched
for platform in (None, "cuda", "rocm"):
    name = "on_gpus" if platform else "default"
    lowering = mlir.lower_fun(lambda *arrays, form=name, **forms: forms[form](*arrays), multiple_results=False)
    mlir.register_lowering(_choice, lowering, platform)
