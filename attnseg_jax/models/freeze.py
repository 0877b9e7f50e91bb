"""Freezing: which parameters stay as they are, told by their paths alone.

A frozen parameter gets no gradient, no update and no decay, and a module all of whose parameters are frozen works in
training as in evaluation: its batch norms use their running statistics, its dropout does nothing.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util
from jaxtyping import PyTree

from attnseg_jax.errors import check_known

# What `config.model.PART.freeze` may be.
FREEZE = {"backbone": ("none", "bn", "all"), "decoder": ("none", "all")}
# The auxiliary head goes with the decoder.
_PREFIXES = {"backbone": ("backbone/",), "decoder": ("decoder/", "aux_head/")}


def frozen_paths(config: Mapping[str, Any], variables: Mapping[str, Any]) -> frozenset[str]:
    """Paths such as `backbone/conv1/kernel` of the parameters that the `model` part of a config freezes.

    With 'bn' those of the scales and biases of batch norms, which are the modules that have running statistics.

    Args:
      config: the `model` part of a config.
      variables: of the model, `params` and `batch_stats` (arrays or `jax.eval_shape`'s).

    Raises:
      UserError: an unknown way to freeze.
    """
    paths = [*traverse_util.flatten_dict(variables["params"], sep="/")]
    statistics = traverse_util.flatten_dict(variables.get("batch_stats", {}), sep="/")
    norms = {path.rpartition("/")[0] for path in statistics if path.endswith("/mean")}
    frozen: set[str] = set()
    for part, known in FREEZE.items():
        freeze = config.get(part, {}).get("freeze", "none")
        check_known(f"config.model.{part}", known, freeze=freeze)
        within = [path for path in paths if path.startswith(_PREFIXES[part])]
        if freeze == "all":
            frozen.update(within)
        elif freeze == "bn":
            frozen.update(path for path in within if path.rpartition("/")[0] in norms)
    return frozenset(frozen)


def without_gradients(params: PyTree, frozen: Collection[str]) -> PyTree:
    """The same parameters, the frozen ones behind `stop_gradient`."""
    flat = traverse_util.flatten_dict(params, sep="/")
    flat = {path: jax.lax.stop_gradient(x) if path in frozen else x for path, x in flat.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def frozen_modules(frozen: Collection[str]) -> AbstractContextManager[None]:
    """A context for `model.apply(..., train=True)` in which frozen modules work as in evaluation."""

    def evaluate(call, args, kwargs, context):
        if kwargs.get("train") and context.method_name == "__call__":
            module = context.module
            prefix = "".join(f"{name}/" for name in module.path)
            own = traverse_util.flatten_dict(module.variables.get("params", {}), sep="/")
            if own and all(prefix + path in frozen for path in own):
                kwargs = {**kwargs, "train": False}
        return call(*args, **kwargs)

    return nn.intercept_methods(evaluate)
