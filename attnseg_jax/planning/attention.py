"""What the forms in which attention can be computed take alone, on one chip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from attnseg_jax.cost import Alone
from attnseg_jax.data import datasets
from attnseg_jax.errors import UserError
from attnseg_jax.models.attention import Attention
from attnseg_jax.ops.platforms import tracing_for
from attnseg_jax.planning import hlo
from attnseg_jax.planning.chips import Slice
from attnseg_jax.planning.plan import compile_if_it_fits
from attnseg_jax.train.setup import abstract_inputs, make_model


@dataclass(frozen=True)
class AttentionPlan:
    """What one form of an attention mechanism takes alone: its outputs and the gradients, on one chip.

    Attributes:
      impl: the form.
      temporaries: bytes; None where it cannot serve, or needs more than the chip has.
      milliseconds: by the compiler's cycles; None where they are not told.
      reason: why there are no figures.
    """

    impl: str
    temporaries: int | None = None
    milliseconds: float | None = None
    reason: str = ""


def attention_plans(config: ConfigDict, where: Slice, rows: int) -> list[AttentionPlan]:
    """What each form of the config's attention takes alone on one chip; empty for a mechanism that has but one."""
    info = datasets.info(config.data)
    model = make_model(config, info.num_classes)
    mechanism = getattr(model, "attention", None)
    if where.devices is None or not hasattr(mechanism, "impl"):
        return []
    shape = _attended(model, abstract_inputs(config, rows))
    inputs = [jax.ShapeDtypeStruct(shape, config.dtype), jax.ShapeDtypeStruct((*shape[:3], info.outputs), "float32")]
    plans = []
    for impl in ("dense", "chunked", "splash"):
        try:
            plans.append(_attention_plan(mechanism.clone(impl=impl, parent=None), inputs, where))
        except UserError as error:
            plans.append(AttentionPlan(impl, reason=str(error)))
    return plans


def _attention_plan(mechanism: Attention, inputs: list[jax.ShapeDtypeStruct], where: Slice) -> AttentionPlan:
    alone, impl = Alone(mechanism), mechanism.impl
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def loss(variables: Any, *inputs: jax.Array) -> jax.Array:
        out, _ = alone.apply(
            variables, *inputs, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
        )
        return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(out))

    with tracing_for(where.chip.platform, 1):
        variables = jax.eval_shape(partial(alone.init, train=False), keys, *inputs)
        lowered = where.jit(jax.grad(loss, argnums=(0, 1))).lower(variables, *inputs)
        compiled, needed = compile_if_it_fits(lowered)
    if compiled is None:
        return AttentionPlan(impl, reason=f"needs {needed}")
    taken = hlo.taken(compiled.as_text())
    known = where.chip.clock and not taken.kernels
    milliseconds = 1e3 * taken.all_cycles / where.chip.clock if known else None
    reason = "" if known else "the compiler does not look into its kernel"
    return AttentionPlan(impl, compiled.memory_analysis().temp_size_in_bytes, milliseconds, reason)


def _attended(model: nn.Module, inputs: Sequence[jax.ShapeDtypeStruct]) -> tuple[int, ...]:
    """The shape of the map that a model's attention mechanism is given."""
    shapes = []

    def look(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Attention) and context.method_name == "__call__":
            shapes.append(args[0].deepest.shape)
        return call(*args, **kwargs)

    def forward(*inputs: jax.Array) -> Any:
        with nn.intercept_methods(look):
            return model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, *inputs, train=False)

    jax.eval_shape(forward, *inputs)
    return shapes[0]
