"""Linear functions that bring their own transpose: fast gradients that leave every other derivative working.

`jax.custom_vjp` would take a fast gradient too, but a function that has one has no forward mode. Here a function gets
its tangent by `jax.custom_jvp`, written with `linear_map`; reverse mode transposes that tangent and so arrives at the
gradient that was given. `jvp`, `vjp`, `vmap`, derivatives of derivatives, `jax.checkpoint`, loops, `pmap` and
`shard_map` work on every platform.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from attnseg_jax.ops.varying import varying_together


def linear_map(
    forward: Callable[[PyTree, PyTree], PyTree],
    transpose: Callable[[PyTree, PyTree], PyTree],
    residuals: PyTree,
    inputs: PyTree,
) -> PyTree:
    """`forward(residuals, inputs)`, whose transpose with respect to `inputs` is `transpose(residuals, cotangents)`.

    Args:
      forward: linear in its second argument; differentiable by JAX in its first, where second derivatives are wanted.
      transpose: takes cotangents like the result of `forward` and returns some like `inputs`. The same holds for it.
      residuals: what the linear function depends on. Both functions get all their arrays as arguments; they close over
        none that is traced.
      inputs: what it is linear in.

    Returns:
      What `forward` returns.

    >>> def scale(factor, x):
    ...     return factor * x
    >>> jax.grad(lambda x: linear_map(scale, scale, 3.0, x))(5.0).item()
    3.0
    """
    fixed, fixed_tree = jax.tree.flatten(residuals)
    given, given_tree = jax.tree.flatten(inputs)
    found_tree = jax.tree.structure(jax.eval_shape(forward, residuals, inputs))
    functions = {
        "forward": _flat(forward, fixed_tree, given_tree),
        "transpose": _flat(transpose, fixed_tree, found_tree),
    }
    return jax.tree.unflatten(found_tree, _linear_map.bind(*fixed, *given, **functions, count=len(fixed)))


@functools.lru_cache(maxsize=1024)
def _flat(function, fixed_tree, tree):
    """`function` of lists of arrays. The same one for every call, so that layers of one shape are traced once."""

    def call(*arrays):
        count = fixed_tree.num_leaves
        residuals, inputs = fixed_tree.unflatten(arrays[:count]), tree.unflatten(arrays[count:])
        return jax.tree.leaves(function(residuals, inputs))

    return jax.jit(call, inline=True)


def bilinear(
    product: Callable[[Array, Array], Array],
    gradient_of_first: Callable[[Array, Array], Array],
    gradient_of_second: Callable[[Array, Array], Array],
) -> Callable[[Array, Array], Array]:
    """`product(x, y)`, linear in each of the two, with gradients of one's own.

    Args:
      product: the function.
      gradient_of_first: takes `(y, g)`, `g` the cotangent of the result, and returns the gradient of `x`.
      gradient_of_second: takes `(x, g)` and returns the gradient of `y`.

    Returns:
      The function that equals `product`; it has derivatives of every order and mode.

    >>> double = bilinear(jnp.multiply, lambda y, g: 2 * g * y, lambda x, g: g * x)  # a wrong gradient is believed
    >>> [x.item() for x in jax.grad(double, (0, 1))(3.0, 5.0)]
    [10.0, 3.0]
    """

    # Under jit these are traced once for each shape, and not for every layer, its type and its tangent.
    product, gradient_of_first, gradient_of_second = (
        jax.jit(function, inline=True) for function in (product, gradient_of_first, gradient_of_second)
    )

    @jax.custom_jvp
    def call(x, y):
        return product(x, y)

    def of_second(x, y):
        return call(y, x)

    @functools.partial(call.defjvp, symbolic_zeros=True)
    def tangent(primals, tangents):
        x, y = primals
        d_x, d_y = tangents
        parts = []
        if not isinstance(d_x, jax.custom_derivatives.SymbolicZero):
            parts.append(linear_map(of_second, gradient_of_first, y, d_x))
        if not isinstance(d_y, jax.custom_derivatives.SymbolicZero):
            parts.append(linear_map(call, gradient_of_second, x, d_y))
        out = call(x, y)
        return out, functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(out)

    return lambda x, y: call(*varying_together(x, y))


# Arrays are `count` residuals and then the inputs; `forward` and `transpose` take and return flat lists.
_linear_map = Primitive("linear_map")
_linear_map.multiple_results = True


@_linear_map.def_impl
def _run(*arrays, forward, transpose, count):
    return forward(*arrays)


@_linear_map.def_abstract_eval
def _types(*types, forward, transpose, count):
    return jax.make_jaxpr(forward)(*types).out_avals


def _tangent(primals, tangents, *, forward, transpose, count):
    bound = functools.partial(_linear_map.bind, forward=forward, transpose=transpose, count=count)
    moved = [i for i, tangent in enumerate(tangents[:count]) if not isinstance(tangent, ad.Zero)]
    parts = []
    if not all(isinstance(tangent, ad.Zero) for tangent in tangents[count:]):
        parts.append(bound(*primals[:count], *map(ad.instantiate_zeros, tangents[count:])))
    if moved:

        def of_residuals(*residuals):
            arrays = list(primals)
            for i, residual in zip(moved, residuals):
                arrays[i] = residual
            return forward(*arrays)

        parts.append(jax.jvp(of_residuals, [primals[i] for i in moved], [tangents[i] for i in moved])[1])
    return bound(*primals), [functools.reduce(jnp.add, terms) for terms in zip(*parts)]


def _transposed(cotangents, *arrays, forward, transpose, count):
    cotangents = map(ad.instantiate_zeros, cotangents)
    found = _linear_map.bind(*arrays[:count], *cotangents, forward=transpose, transpose=forward, count=count)
    wanted = map(ad.is_undefined_primal, arrays[count:])
    return [None] * count + [gradient if want else None for gradient, want in zip(found, wanted)]


def _batched(arrays: Sequence[Any], axes: Sequence[int | None], *, forward, transpose, count):
    size = next(x.shape[axis] for x, axis in zip(arrays, axes) if axis is not None)
    residuals = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arrays[:count], axes)]
    # An input that all share is repeated, so that its gradient is summed.
    inputs = [batching.bdim_at_front(x, axis, size) for x, axis in zip(arrays[count:], axes[count:])]
    kept = [None if axis is None else 0 for axis in axes[:count]]

    def over(function):
        def call(*arrays):
            return jax.vmap(function, in_axes=[*kept, *[0] * (len(arrays) - count)])(*arrays)

        return jax.jit(call, inline=True)

    out = _linear_map.bind(*residuals, *inputs, forward=over(forward), transpose=over(transpose), count=count)
    return out, [0] * len(out)


ad.primitive_jvps[_linear_map] = _tangent
ad.primitive_transposes[_linear_map] = _transposed
batching.primitive_batchers[_linear_map] = _batched
mlir.register_lowering(_linear_map, mlir.lower_fun(_run, multiple_results=True))
