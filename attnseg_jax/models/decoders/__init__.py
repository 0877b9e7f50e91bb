"""Decoders: `Features` -> `Output` at the size of their maps."""

from attnseg_jax.models.decoders.fcn import FCN, FCNHead

DECODERS = {"fcn": FCN}
__all__ = ["DECODERS", "FCN", "FCNHead"]
