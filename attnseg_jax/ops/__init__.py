"""Pure array functions of segmentation; they need jax, numpy and jaxtyping only and are imported by submodule.

>>> from attnseg_jax.ops import attention, conv, losses, metrics, norm, pool, resize
"""
