"""What all losses use: checked inputs, counts and sums over devices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.platforms import fence


class Inputs(NamedTuple):
    """The checked and masked inputs of a loss.

    Attributes:
      logits: float32 `[b, h, w, k]`, 0 where the pixel is ignored.
      one_hot: float32 `[b, h, w, k]` of the labels.
      valid: `[b, h, w]`, not ignored.
      known: whether every label is a class or the ignore label.
    """

    logits: Float[Array, "b h w k"]
    one_hot: Float[Array, "b h w k"]
    valid: Bool[Array, "b h w"]
    known: Bool[Array, ""]


def inputs(logits: Float[Array, "b h w k"], labels: Int[Array, "b h w"]) -> Inputs:
    """Checks and masks logits and labels; raises ValueError for shapes that do not fit."""
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits [b, h, w, k] = {logits.shape} and labels [b, h, w] = {labels.shape} do not fit")
    k = logits.shape[-1]
    valid = labels != IGNORE_LABEL
    # Logits of ignored pixels are replaced first, so that not even an infinite one reaches the gradient.
    masked = jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0)
    return Inputs(masked, one_hot(labels, k), valid, all_known(labels, k))


def all_known(labels: Int[Array, "b h w"], k: int) -> Bool[Array, ""]:
    """Whether every label is a class or the ignore label."""
    return ((labels >= 0) & (labels < k) | (labels == IGNORE_LABEL)).all()


def one_hot(labels: Int[Array, "b h w"], k: int) -> Float[Array, "b h w k"]:
    """1 at the label, 0 elsewhere; a label outside `[0, k)` has no 1."""
    return (labels[..., None] == jnp.arange(k).reshape((1,) * labels.ndim + (k,))).astype(jnp.float32)


def pixel_count(labels: Int[Array, "b h w"], *, class_weights: Float[Array, " k"] | None = None) -> Float[Array, ""]:
    """The number of pixels that are not ignored, or the sum of their class weights `[k]`.

    >>> float(pixel_count(jnp.array([[[0, 3, 255]]])))
    2.0
    """
    valid = labels != IGNORE_LABEL
    if class_weights is None:
        return valid.sum(dtype=jnp.int32).astype(jnp.float32)  # a float32 counter would stop at 2 ** 24
    k = class_weights.shape[0]
    weights = class_weights.astype(jnp.float32).reshape((1,) * labels.ndim + (k,))
    return jnp.where(valid, (one_hot(labels, k) * weights).sum(-1), 0.0).sum()


def image_count(labels: Int[Array, "b h w"]) -> Float[Array, ""]:
    """The number of images with a pixel that is not ignored.

    >>> float(image_count(jnp.array([[[0, 3, 255]], [[255, 255, 255]]])))
    1.0
    """
    return (labels != IGNORE_LABEL).any((1, 2)).sum(dtype=jnp.int32).astype(jnp.float32)


def mean(loss_sum: Float[Array, ""], count: Float[Array, ""]) -> Float[Array, ""]:
    """`loss_sum / count`, and 0 with zero gradient where `count` is 0; NaN stays NaN.

    >>> float(mean(jnp.float32(6), jnp.float32(4))), float(mean(jnp.float32(0), jnp.float32(0)))
    (1.5, 0.0)
    """
    # Labels that are no class have no weight either: were all of them so, their NaN would be lost.
    nothing = jnp.where(jnp.isnan(loss_sum), loss_sum, 0.0)
    return jnp.where(count > 0, loss_sum / jnp.where(count > 0, count, 1.0), nothing)


def over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The sum of `x` over the devices, whose gradient on each device is that of its own summand.

    The collective itself is not differentiated: each device has a share of the gradient, and their sum is the gradient.
    """
    x = fence(x)  # what is computed of a few sums is not fused into their gradient, which has all pixels
    if axis_name is None:
        return x
    fixed = lax.stop_gradient(x)
    return lax.psum(fixed, axis_name) + (x - fixed)


def as_pixel_sum(
    value: Float[Array, ""], labels: Int[Array, "b h w"], axis_name: str | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`value`, a loss of all devices' pixels, as `(loss_sum, count)` of this device, whose count is its valid pixels.

    The sum of `loss_sum` over the devices is `value` times the number of all valid pixels. The same holds for the
    gradient if each device has its share of the gradient of `value`, as with `over_devices`.
    """
    count = pixel_count(labels)
    total = count if axis_name is None else lax.psum(count, axis_name)
    fixed = lax.stop_gradient(value)
    return count * fixed + total * (value - fixed), count


def ratio(numerator: jax.Array, denominator: jax.Array, eps: float = 0.0) -> jax.Array:
    """The quotient, with a denominator of at least `eps`, and 0 with zero gradient where that is 0."""
    denominator = jnp.maximum(denominator, eps)
    empty = denominator <= 0
    return jnp.where(empty, 0.0, numerator / jnp.where(empty, 1.0, denominator))
