"""Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) with PyTorch's running statistics."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

DATA_AXIS = "data"
"""Name of the mapped axis over which devices share a batch."""


def batch_norm(
    x: Float[Array, "*b c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    running_mean: Float[Array, " c"],
    running_var: Float[Array, " c"],
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis_name: str | None = None,
) -> tuple[Float[Array, "*b c"], Float[Array, " c"], Float[Array, " c"]]:
    """Normalise with the statistics of the batch; returns `(y, running_mean, running_var)`, the latter two updated.

    The batch is normalised with its biased variance, while the running variance is updated with the unbiased one
    (times `n / (n - 1)`); `momentum` is the weight of the new value. Flax's `BatchNorm` differs in both.

    Args:
      x: `[..., c]`; statistics are taken over all axes but the last, in float32.
      scale, bias: float32 `[c]`.
      running_mean, running_var: float32 `[c]` from the previous step.
      momentum: weight of this batch in the running statistics.
      eps: added to the variance.
      axis_name: mapped axis over whose devices the statistics are taken; all of them hold equally many elements.

    Raises:
      ValueError: there is one element a channel. It is its own mean and has no variance: the output would be the bias
        whatever the input, and the running variance would shrink to 0.

    >>> x = jnp.array([[1.0], [3.0]])
    >>> one, zero = jnp.ones(1), jnp.zeros(1)
    >>> y, mean, var = batch_norm(x, one, zero, zero, one, momentum=0.5, eps=0.0)
    >>> y.ravel().tolist(), mean.tolist(), var.tolist()
    ([-1.0, 1.0], [1.0], [1.5])
    """
    axes = tuple(range(x.ndim - 1))
    count = math.prod(x.shape[:-1]) * (1 if axis_name is None else lax.axis_size(axis_name))
    if count < 2:
        raise ValueError(f"batch normalisation of {x.shape} in training: one element a channel has no variance")

    def average(values):
        values = values.mean(axes)
        return values if axis_name is None else lax.pmean(values, axis_name)

    # Two passes: the mean of squares minus the square of the mean would cancel.
    exact = x.astype(jnp.float32)
    mean = average(exact)
    # Written so that the gradient of the mean needs no sum over `x` of its own: `centred` counts as shifted by a
    # constant, and `shift`, which is 0, carries the mean's derivatives of every order.
    fixed = lax.stop_gradient(mean)
    centred, shift = exact - _over(fixed, x), mean - fixed
    var = average(jnp.square(centred)) - jnp.square(shift)
    factor = lax.rsqrt(var + eps) * scale
    y = centred * _over(factor, x) + _over(bias - shift * factor, x)
    unbiased = var * (count / (count - 1))
    new_mean = (1 - momentum) * running_mean + momentum * lax.stop_gradient(mean)
    new_var = (1 - momentum) * running_var + momentum * lax.stop_gradient(unbiased)
    return y.astype(x.dtype), new_mean, new_var


def batch_norm_inference(
    x: Float[Array, "*b c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    running_mean: Float[Array, " c"],
    running_var: Float[Array, " c"],
    *,
    eps: float = 1e-5,
) -> Float[Array, "*b c"]:
    """Normalise `x` `[..., c]` with running statistics `[c]`, in float32; the result has x's dtype.

    >>> one = jnp.ones(1)
    >>> batch_norm_inference(jnp.array([[5.0]]), one, one, one, 4 * one, eps=0.0).tolist()
    [[3.0]]
    """
    factor = lax.rsqrt(running_var + eps) * scale
    y = (x.astype(jnp.float32) - _over(running_mean, x)) * _over(factor, x) + _over(bias, x)
    return y.astype(x.dtype)


def _over(values, x):
    """`[c]` with as many leading axes as `x` has."""
    return values.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + values.shape)
