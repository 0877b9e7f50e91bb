"""The Lovasz-Softmax loss."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.losses.sums import image_count, inputs, probabilities, ratio


def lovasz(
    logits: Float[Array, "b h w k"], labels: Int[Array, "b h w *c"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The convex surrogate of one minus the intersection over union (Berman et al. 2018, arXiv:1705.08790).

    An image's loss is the mean over the classes present in it. An image without valid pixels is left out, where the
    original fails. For the original's form over a whole batch, make it one image: `logits.reshape(1, b * h, w, k)`.
    The pixels are sorted for each class of each image, so that on a CPU it is slower than the other losses.

    Returns:
      `(loss_sum, count)`: the sum over the images, and the number of those with valid pixels.

    >>> loss_sum, count = lovasz(jnp.zeros((2, 1, 3, 2)), jnp.array([[[0, 1, 255]], [[255, 255, 255]]]))
    >>> float(loss_sum), int(count)
    (0.5, 1)
    """
    z, truth, valid, known = inputs(logits, labels)
    b, h, w, k = z.shape
    p = probabilities(z, labels)
    by_class = (b, h * w, k)
    errors = jnp.where(valid, jnp.abs(truth - p), 0.0).reshape(by_class).swapaxes(1, 2)
    # 1 for a pixel of the class, 0 for one of another, -1 for an ignored one.
    kinds = jnp.where(valid, truth, -1.0).astype(jnp.int32).reshape(by_class).swapaxes(1, 2)
    losses = (errors * _slopes(lax.stop_gradient(errors), kinds)).sum(-1)
    present = (kinds == 1).any(-1)
    per_image = ratio(jnp.where(present, losses, 0.0).sum(-1), present.sum(-1).astype(jnp.float32))
    return jnp.where(known, per_image.sum(), jnp.nan), image_count(labels)


def _slopes(errors, kinds):
    """`[b, k, n]`: how much the Jaccard loss grows with each pixel as pixels become wrong in the order of their errors.

    Growth by a pixel of the class is `1 / union`, by another `intersection / (union (union + 1))`. The original takes
    differences of the loss, which in large images cancel to 0.
    """
    b, k, _ = errors.shape
    # Floats of at least 0 have the order of their bits as integers, which sort faster. Ignored pixels come last.
    keys = jnp.where(kinds < 0, 1, -lax.bitcast_convert_type(errors, jnp.int32))
    _, packed = lax.sort((keys, 4 * lax.broadcasted_iota(jnp.int32, errors.shape, 2) + kinds + 1), num_keys=1)
    kinds, place = packed % 4 - 1, packed // 4
    own, other = (kinds == 1).astype(jnp.int32), (kinds == 0).astype(jnp.int32)
    size = own.sum(-1, keepdims=True)
    intersection = (size - jnp.cumsum(own, -1)).astype(jnp.float32)
    union = (size + jnp.cumsum(other, -1)).astype(jnp.float32)
    growth = own * ratio(1.0, union) + other * ratio(intersection, union * (union - 1))
    # Three indices: a single int32 could not address every element of a large batch.
    images, classes = jnp.arange(b).reshape(b, 1, 1), jnp.arange(k).reshape(1, k, 1)
    slopes = jnp.zeros(errors.shape).at[images, classes, place]
    return slopes.set(growth, unique_indices=True, mode="promise_in_bounds")
