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
      logits: float32 `[b, h, w, k]`, 0 where the label is ignored.
      truth: float32 `[b, h, w, k]`, 1 where a class is there, 0 elsewhere.
      valid: `[b, h, w, k]`, or with one place for all classes, where the label is not ignored.
      known: whether every label is one that may be.
    """

    logits: Float[Array, "b h w k"]
    truth: Float[Array, "b h w k"]
    valid: Bool[Array, "b h w #k"]
    known: Bool[Array, ""]


def inputs(logits: Float[Array, "b h w k"], labels: Int[Array, "b h w *c"]) -> Inputs:
    """Checks and masks logits and labels; raises ValueError for shapes that do not fit."""
    if labels.shape not in (logits.shape[:-1], logits.shape):
        raise ValueError(
            f"logits [b, h, w, k] = {logits.shape} and labels [b, h, w] or [b, h, w, k] = {labels.shape} do not fit"
        )
    truth, valid, known = entries(labels, logits.shape[-1])
    # Logits of ignored pixels are replaced first, so that not even an infinite one reaches the gradient.
    return Inputs(jnp.where(valid, logits.astype(jnp.float32), 0.0), truth, valid, known)


def are_independent(labels: Int[Array, "b h w *c"], k: int) -> bool:
    """Whether each of k classes is there or not whatever the others are, so that its logit is that of a sigmoid.

    Otherwise exactly one of them is there, and the logits are those of a softmax.
    """
    return labels.ndim == 4 or k == 1


def entries(
    labels: Int[Array, "b h w *c"], k: int
) -> tuple[Float[Array, "b h w {k}"], Bool[Array, "b h w _"], Bool[Array, ""]]:
    """`truth`, `valid` and `known` of `Inputs`."""
    if not are_independent(labels, k):
        return one_hot(labels, k), (labels != IGNORE_LABEL)[..., None], all_known(labels, k)
    each = labels.reshape(*labels.shape[:3], k)
    return (each == 1).astype(jnp.float32), each != IGNORE_LABEL, all_known(each, 2)


def probabilities(logits: Float[Array, "b h w k"], labels: Int[Array, "b h w *c"]) -> Float[Array, "b h w k"]:
    """Those of the classes, by a softmax or by a sigmoid for each."""
    return jax.nn.sigmoid(logits) if are_independent(labels, logits.shape[-1]) else jax.nn.softmax(logits)


def all_known(labels: Int[Array, "*b"], k: int) -> Bool[Array, ""]:
    """Whether every label is in `[0, k)` or the ignore label."""
    return ((labels >= 0) & (labels < k) | (labels == IGNORE_LABEL)).all()


def one_hot(labels: Int[Array, "b h w"], k: int) -> Float[Array, "b h w k"]:
    """1 at the label, 0 elsewhere; a label outside `[0, k)` has no 1."""
    return (labels[..., None] == jnp.arange(k).reshape((1,) * labels.ndim + (k,))).astype(jnp.float32)


def pixel_count(labels: Int[Array, "b h w *c"], *, class_weights: Float[Array, " k"] | None = None) -> Float[Array, ""]:
    """The number of labels that are not ignored, or the sum of their weights, see `label_weights`.

    >>> float(pixel_count(jnp.array([[[0, 3, 255]]])))
    2.0
    >>> float(pixel_count(jnp.array([[[[0, 1], [0, 255]]]]), class_weights=jnp.array([9.0, 4.0])))  # 1 + 4 + 1
    6.0
    """
    if class_weights is None:
        # A float32 counter would stop at 2 ** 24.
        return (labels != IGNORE_LABEL).sum(dtype=jnp.int32).astype(jnp.float32)
    return label_weights(labels, class_weights).sum()


def label_weights(labels: Int[Array, "b h w *c"], class_weights: Float[Array, " k"]) -> Float[Array, "b h w *c"]:
    """The weight of each label, 0 where it is ignored.

    Of classes that exclude one another it is that of the class; of independent ones, that of the class where it is
    there, and 1 where it is not.
    """
    k = class_weights.shape[0]
    weights = class_weights.astype(jnp.float32)
    if are_independent(labels, k):
        of_label = jnp.where(labels == 1, weights.reshape((1,) * (labels.ndim - 1) + (k,)), 1.0)
    else:
        of_label = (one_hot(labels, k) * weights.reshape((1,) * labels.ndim + (k,))).sum(-1)
    return jnp.where(labels != IGNORE_LABEL, of_label, 0.0)


def image_count(labels: Int[Array, "b h w *c"]) -> Float[Array, ""]:
    """The number of images with a pixel that is not ignored.

    >>> float(image_count(jnp.array([[[0, 3, 255]], [[255, 255, 255]]])))
    1.0
    """
    return (labels != IGNORE_LABEL).any(range(1, labels.ndim)).sum(dtype=jnp.int32).astype(jnp.float32)


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
    value: Float[Array, ""], labels: Int[Array, "b h w *c"], axis_name: str | None
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
