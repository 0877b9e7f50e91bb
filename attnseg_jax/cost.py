"""What a module costs: parameters, floating-point operations, memory and time, forward and with gradient.

XLA counts the body of a loop once, however often it runs, which would make attention in chunks look cheap. Here the
body of every loop whose length is known when it is traced (`lax.scan`, `lax.map`, a differentiable `fori_loop`) is
counted as often as it runs; that of a `while_loop` still once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.core import jaxpr_as_fun, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, Float, PyTree

from attnseg_jax.models.attention import Attention
from attnseg_jax.models.features import Features

# Seconds after which no further repetition of a timing starts.
PATIENCE = 2.0


@dataclass(frozen=True)
class Cost:
    """What one program costs.

    Attributes:
      flops: floating-point operations, a multiply-add is two; of the program as it is written, so that they do not
        depend on the backend. Kernels that XLA cannot look into (cuDNN, Pallas) count nothing.
      bytes_accessed: read and written by the compiled program's instructions.
      temp_bytes: peak memory beside arguments and results, of the compiled program.
      milliseconds: median time of a call, or None where it was not run.
    """

    flops: float
    bytes_accessed: float
    temp_bytes: int
    milliseconds: float | None = None


@dataclass(frozen=True)
class ModuleCost:
    """What a module costs.

    Attributes:
      parameters: their number.
      forward: outputs in evaluation.
      gradient: outputs in training, and the gradients of parameters and, where asked for, inputs.
    """

    parameters: int
    forward: Cost
    gradient: Cost


class Alone(nn.Module):
    """A mechanism without a model: features, logits and, if it gates, a skip go through it."""

    mechanism: Attention

    def __call__(self, x: Float[Array, "b h w c"], logits: Float[Array, "b h w k"], *, train: bool = False) -> PyTree:
        """Returns what the mechanism changes of features, logits and skip."""
        gates = self.mechanism.has_gate
        # A gate weighs a skip by a map of half its size.
        maps = {8: x, 16: x[:, ::2, ::2]} if gates else {8: x}
        features = self.mechanism(Features(maps), train=train)
        changed = [features]
        if type(self.mechanism).refine is not Attention.refine:
            changed.append(self.mechanism.refine(logits, features))
        if gates:
            changed.append(self.mechanism.gate(x, features.deepest, stride=8, train=train))
        return changed


def attention_cost(
    mechanism: Attention, height: int, width: int, channels: int, *, num_classes: int = 19, **options: Any
) -> ModuleCost:
    """The cost of a mechanism on one float32 map `[1, height, width, channels]`, inputs' gradients included.

    `options` and errors are those of `module_cost`.
    """
    shapes = [jax.ShapeDtypeStruct((1, height, width, c), jnp.float32) for c in (channels, num_classes)]
    return module_cost(Alone(mechanism), *shapes, **options)


def module_cost(
    module: nn.Module,
    *inputs: jax.ShapeDtypeStruct,
    input_gradient: bool = True,
    repeats: int = 0,
    max_bytes: float = np.inf,
) -> ModuleCost:
    """The cost of `module.apply(variables, *inputs, train=...)`.

    Args:
      module: a linen module.
      inputs: shapes and types of its inputs; integers only without `input_gradient`.
      input_gradient: whether the gradient goes on to the inputs, as it does in the middle of a model.
      repeats: how often each program is timed, after one call that is not; 0 runs nothing. No repetition starts
        `PATIENCE` seconds after the first.
      max_bytes: a program with more temporary memory is not run.

    Raises:
      UserError: whatever the module refuses, before anything is compiled.
    """
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = {"params": {}, **jax.eval_shape(module.init, keys, *inputs)}
    others = [name for name in variables if name != "params"]

    def forward(variables: PyTree, *x: Array) -> list[Array]:
        return _floating(module.apply(variables, *x, train=False))

    def training(params: PyTree, rest: PyTree, *x: Array) -> tuple[list[Array], PyTree]:
        rngs = {"dropout": jax.random.key(1)}
        out, updated = module.apply({"params": params, **rest}, *x, train=True, rngs=rngs, mutable=list(rest))
        return _floating(out), updated

    def gradient(variables: PyTree, cotangents: list[Array], *x: Array) -> PyTree:
        rest = {name: variables[name] for name in others}
        if input_gradient:
            function, at = lambda params, *x: training(params, rest, *x), (variables["params"], *x)
        else:
            function, at = lambda params: training(params, rest, *x), (variables["params"],)
        out, pull_back, updated = jax.vjp(function, *at, has_aux=True)
        return out, pull_back(cotangents), updated

    parameters = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables["params"]))
    # Cotangents are arguments: constants would be folded into a cheaper program.
    cotangents, _ = jax.eval_shape(training, variables["params"], {name: variables[name] for name in others}, *inputs)
    if repeats:
        rng = np.random.default_rng(0)
        inputs = [jnp.asarray(rng.standard_normal(x.shape), x.dtype) for x in inputs]
        variables = {"params": {}, **jax.jit(module.init)(keys, *inputs)}
        cotangents = [jnp.ones(c.shape, c.dtype) for c in cotangents]
    options = {"repeats": repeats, "max_bytes": max_bytes}
    return ModuleCost(
        parameters,
        program_cost(forward, variables, *inputs, **options),
        program_cost(gradient, variables, cotangents, *inputs, **options),
    )


def program_cost(function: Callable, *arguments: PyTree, repeats: int = 0, max_bytes: float = np.inf) -> Cost:
    """The cost of `jax.jit(function)(*arguments)`; where `repeats` is 0 the arguments may be abstract.

    >>> cost = program_cost(lambda x, y: x @ y, jnp.ones((2, 3)), jnp.ones((3, 5)))
    >>> cost.flops, cost.bytes_accessed
    (60.0, 124.0)
    """
    counts, compiled = _counted_once(function, arguments)
    more = _repetitions(_live(jax.make_jaxpr(function)(*arguments).jaxpr), lambda *body: _counted_once(*body)[0])
    temp = int(compiled.memory_analysis().temp_size_in_bytes)
    milliseconds = _median_milliseconds(compiled, arguments, repeats) if repeats and temp <= max_bytes else None
    flops, accessed = counts + more
    return Cost(float(flops), float(accessed), temp, milliseconds)


def program_flops(function: Callable, *arguments: PyTree) -> float:
    """The floating-point operations of `function(*arguments)`, whose arguments may be abstract; compiles nothing.

    >>> program_flops(lambda x, y: x @ y, jnp.ones((2, 3)), jnp.ones((3, 5)))
    60.0
    """

    def once(function: Callable, arguments: Sequence[PyTree]) -> np.ndarray:
        return _counted(jax.jit(function).lower(*arguments), "flops")

    repeated = _repetitions(_live(jax.make_jaxpr(function)(*arguments).jaxpr), once)
    return float(once(function, arguments) + np.sum(repeated))


def _floating(out: PyTree) -> list[Array]:
    """What of a module's output has a gradient."""
    return [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def _counted_once(function: Callable, arguments: Sequence[PyTree]) -> tuple[np.ndarray, Any]:
    """XLA's own FLOPs and bytes, with every loop's body counted once; the compiled program."""
    lowered = jax.jit(function).lower(*arguments)
    compiled = lowered.compile()
    return np.array([_counted(lowered, "flops"), _counted(compiled, "bytes accessed")]), compiled


def _counted(program: Any, name: str) -> np.ndarray:
    """A number of XLA's own about a lowered or compiled program."""
    # A program that computes nothing has no entries, and XLA's word for a number that it cannot tell is negative.
    return np.maximum((program.cost_analysis() or {}).get(name, 0.0), 0.0)


def _live(jaxpr: Any) -> Any:
    """Without what no output needs, such as attention weights that nobody asked for."""
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _repetitions(jaxpr: Any, counted: Callable[[Callable, Sequence[PyTree]], np.ndarray]) -> np.ndarray:
    """What `counted` says of all loops' repetitions beyond the first: it counts the bodies of loops once."""
    total = np.zeros(())
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            body = equation.params["jaxpr"]
            once = counted(jaxpr_as_fun(body), [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in body.in_avals])
            inner = _repetitions(body.jaxpr, counted)
            total = total + equation.params["length"] * (once + inner) - once
        else:
            for inner in jaxprs_in_params(equation.params):
                total = total + _repetitions(inner, counted)
    return total


def _median_milliseconds(compiled: Callable, arguments: Sequence[PyTree], repeats: int) -> float:
    jax.block_until_ready(compiled(*arguments))
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < PATIENCE:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))
