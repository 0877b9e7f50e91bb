"""How many numbers a channel's batch statistics are taken of, found without computing anything."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from attnseg_jax.models.freeze import frozen_modules
from attnseg_jax.models.layers.conv import BatchNorm


def elements(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: Sequence[jax.ShapeDtypeStruct],
    frozen: Collection[str] = (),
) -> dict[str, int]:
    """The numbers a channel of every batch normalisation that takes its statistics from the batch, by its path.

    Args:
      model: the linen module.
      variables: of the model (arrays or `jax.eval_shape`'s).
      inputs: of the rows over which statistics are taken together: those of all devices in one micro-batch.
      frozen: paths of the parameters that get no gradient, see `models.freeze`.

    >>> x = jax.ShapeDtypeStruct((2, 4, 3, 5), "float32")
    >>> norm = BatchNorm()
    >>> elements(norm, jax.eval_shape(lambda k, x: norm.init(k, x, train=False), jax.random.key(0), x), [x])
    {'': 24}
    """
    found: dict[str, int] = {}

    def count(call, args, kwargs, context):
        module, path = context.module, "/".join(context.module.path)
        if context.method_name == "__call__" and isinstance(module, BatchNorm) and kwargs["train"]:
            x = args[0]
            found[path] = min(found.get(path, x.size), int(np.prod(x.shape[:-1])))
            # One element would be refused here, and all of them are wanted.
            kwargs = {**kwargs, "train": False}
        return call(*args, **kwargs)

    def forward(variables, inputs):
        with frozen_modules(frozen), nn.intercept_methods(count):
            rngs = {"dropout": jax.random.key(0)}
            return model.apply(variables, *inputs, train=True, rngs=rngs, mutable=["batch_stats"])

    jax.eval_shape(forward, variables, list(inputs))
    return found
