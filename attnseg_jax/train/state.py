"""What a training run carries from step to step."""

from collections.abc import Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Int, Key, PyTree


@flax.struct.dataclass
class TrainState:
    """Everything that a resumed run needs: restoring it continues the run bit for bit.

    `ema` is None if no average is kept. `key` never changes: each step derives its own from it and `step`.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: PyTree | None
    key: Key[Array, ""]


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    inputs: Sequence[jax.ShapeDtypeStruct],
    ema: bool = False,
) -> TrainState:
    """Initialise a model and its optimizer under jit, for `inputs` of these shapes and types, such as an image's.

    The average of the parameters starts at their initial values. `jax.eval_shape` of this function gives the
    abstract state that a checkpoint is restored into without computing anything.
    """

    @jax.jit
    def create(key):
        init_key, run_key = jax.random.split(key)
        variables = init_variables(model, init_key, tuple(inputs))
        params = variables["params"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(params),
            ema=params if ema else None,
            key=run_key,
        )

    return create(key)


@partial(jax.jit, static_argnums=(0, 2))
def init_variables(
    model: nn.Module, key: Key[Array, ""], inputs: tuple[jax.ShapeDtypeStruct, ...]
) -> dict[str, PyTree]:
    """Initial parameters and statistics of a model for `inputs` of these shapes and types; traced once for all uses."""
    return dict(model.init(key, *(jnp.zeros(x.shape, x.dtype) for x in inputs), train=False))


def eval_variables(state: TrainState) -> dict[str, PyTree]:
    """The variables to evaluate a model with: the average of the parameters where one is kept, else the parameters."""
    params = state.params if state.ema is None else state.ema
    return {"params": params, "batch_stats": state.batch_stats}
