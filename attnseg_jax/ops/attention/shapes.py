"""Checks of the arguments of every attention."""

import jax.numpy as jnp


def check_shapes(q, k, v, bias, mask):
    """Raises ValueError for arrays that do not fit together; `v` may be None."""
    if q.ndim != 4 or k.ndim != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(f"queries [b, n, a, d] and keys [b, m, a, d] do not fit: {q.shape} and {k.shape}")
    if v is not None and (v.ndim != 4 or v.shape[:3] != k.shape[:3]):
        raise ValueError(f"keys [b, m, a, d] and values [b, m, a, e] do not fit: {k.shape} and {v.shape}")
    full = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    for name, array in (("bias", bias), ("mask", mask)):
        if array is not None and (array.ndim != 4 or any(s not in (1, f) for s, f in zip(array.shape, full))):
            raise ValueError(f"{name} {array.shape} does not broadcast to [b, a, n, m] = {full} (use 4 axes)")
    if mask is not None and mask.dtype != jnp.bool_:
        raise ValueError(f"mask must be boolean (True = may attend), not {mask.dtype}; additive masks go into bias")
