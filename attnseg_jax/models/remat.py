"""Activations that a backbone computes again in the backward pass instead of keeping them."""

from contextlib import AbstractContextManager, nullcontext

from flax import linen as nn

# What is computed again from its input: nothing, each block of the backbone, or the whole backbone.
REMAT = ("none", "blocks", "full")
_BACKBONE = "backbone"


def rematerialised(remat: str) -> AbstractContextManager[None]:
    """A context for `model.apply`, where gradients are taken, in which parts of `model.backbone` keep only their input.

    Parameters, outputs and gradients stay as they are; a block is a submodule of the backbone that has submodules of
    its own, such as a residual block, but not a convolution.
    """
    if remat == "none":
        return nullcontext()
    # Of the calls that are on their way: the lifted module is called through the same context.
    inside: set[tuple[str, ...]] = set()

    def wrapped(module: nn.Module) -> bool:
        path = module.path
        if path in inside or path[:1] != (_BACKBONE,) or len(path) != (1 if remat == "full" else 2):
            return False
        held = module.variables.get("params", {}).values()
        return remat == "full" or any(hasattr(value, "keys") for value in held)

    def keep_input(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or not wrapped(module):
            return call(*args, **kwargs)
        method, path = type(module).__call__, module.path
        inside.add(path)
        try:
            return nn.remat(lambda module, *args: method(module, *args, **kwargs))(module, *args)
        finally:
            inside.discard(path)

    return nn.intercept_methods(keep_input)
