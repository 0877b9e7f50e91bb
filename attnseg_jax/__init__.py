"""Semantic segmentation with attention in JAX and Flax.

`attnseg_jax.ops` holds pure array functions and needs only jax, numpy and jaxtyping; the names below pull in
flax when they are first used.
"""

import importlib

__version__ = "0.1.0"

_LAZY = {
    "build_model": "attnseg_jax.models",
    "Features": "attnseg_jax.models",
    "Output": "attnseg_jax.models",
    "load_pretrained": "attnseg_jax.inference.pretrained",
    "Predictor": "attnseg_jax.inference.predictor",
}
__all__ = ["Features", "Output", "Predictor", "build_model", "load_pretrained"]


def __getattr__(name: str):
    if name in _LAZY:
        try:
            return getattr(importlib.import_module(_LAZY[name]), name)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"attnseg_jax.{name} needs the package {error.name}: pip install 'attnseg_jax[train]'"
            ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
