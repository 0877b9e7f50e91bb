"""A loss of the boundaries between classes."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.losses.sums import as_pixel_sum, inputs, over_devices, probabilities, ratio
from attnseg_jax.ops.pool import max_pool

_EPS = 1e-7


def boundary(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w *c"],
    *,
    width: int = 1,
    tolerance: int = 2,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """One minus a differentiable boundary F1 score (Bokhovkin & Burnaev 2019, arXiv:1905.07852).

    A pixel is on the boundary of a class to the degree that it belongs to the class and a pixel within `width` does
    not. Precision is the share of the predicted boundary within `tolerance` of the true one, recall the reverse. The
    original divides in each image; here the sums are over all images, so that an image without a class contributes only
    its false boundary. The mean is over the classes that have a true boundary. An ignored pixel makes no boundary.
    The loss depends on edges only: add it to an overlap loss or a cross-entropy.

    Args:
      width: in pixels, in both directions. Where contours are ignored, as in Pascal VOC, it must be wider than these.
      tolerance: in pixels, in both directions.
      axis_name: mapped axis over whose devices the boundaries are summed before the ratios.

    >>> loss_sum, count = boundary(jnp.zeros((1, 1, 4, 2)), jnp.array([[[0, 0, 1, 1]]]))
    >>> float(loss_sum / count)
    1.0
    """
    z, truth, counted, known = inputs(logits, labels)

    def edges(region):
        # An ignored neighbour, or one outside the image, makes no boundary: 0 is the smallest complement.
        complement = jnp.where(counted, 1.0 - region, 0.0)
        edge = jnp.where(counted, max_pool(complement, 2 * width + 1, 1, width) - complement, 0.0)
        return edge, max_pool(edge, 2 * tolerance + 1, 1, tolerance)

    (predicted, near_predicted), (true, near_true) = edges(probabilities(z, labels)), edges(truth)
    terms = (predicted * near_true, predicted, true * near_predicted, true)
    right, all_predicted, found, all_true = over_devices(jnp.stack([x.sum((0, 1, 2)) for x in terms]), axis_name)
    precision, recall = ratio(right, all_predicted, _EPS), ratio(found, all_true)
    score = ratio(2 * precision * recall, precision + recall, _EPS)
    present = all_true > 0
    loss = ratio(jnp.where(present, 1.0 - score, 0.0).sum(), present.sum().astype(jnp.float32))
    loss_sum, count = as_pixel_sum(loss, labels, axis_name)
    return jnp.where(known, loss_sum, jnp.nan), count
