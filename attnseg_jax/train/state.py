"""What a training run carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree


@flax.struct.dataclass
class TrainState:
    """Everything that a resumed run needs: restoring it continues the run bit for bit.

    `ema` is None when no average is kept; `key` never changes, each step derives its own from it and `step`.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: PyTree | None
    key: Key[Array, ""]


def create_state(
    model: Any,
    optimizer: optax.GradientTransformation,
    key: Key[Array, ""],
    image_shape: tuple[int, int, int, int],
    ema: bool = False,
    regions: bool = False,
) -> TrainState:
    """Initialise a model and its optimizer under jit, for images of shape (b, h, w, 3), with `regions` or without.

    The average of the parameters starts at their initial values. `jax.eval_shape` of this function gives the
    abstract state that a checkpoint is restored into without computing anything.
    """

    @jax.jit
    def create(key):
        init_key, run_key = jax.random.split(key)
        inputs = [jnp.zeros(image_shape, jnp.float32)]
        if regions:
            # No parameter depends on the number of levels.
            inputs.append(jnp.zeros((*image_shape[:3], 1), jnp.int32))
        variables = dict(model.init(init_key, *inputs, train=False))
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


def eval_variables(state: TrainState) -> dict[str, PyTree]:
    """The variables to evaluate a model with: the average of the parameters where one is kept, else the parameters."""
    params = state.params if state.ema is None else state.ema
    return {"params": params, "batch_stats": state.batch_stats}
