"""A loss of the boundaries between classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.losses.sums import inputs, over_devices, ratio, spread
from attnseg_jax.ops.pool import max_pool

_EPS = 1e-7


def boundary(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w"],
    *,
    tolerance: int = 2,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """One minus a differentiable boundary F1 score (Bokhovkin & Burnaev 2019, arXiv:1905.07852).

    A pixel is on the boundary of a class as far as it belongs to it and one of its 8 neighbours does not. Precision is
    the share of the predicted boundary within `tolerance` of the true one, recall the reverse. The original divides in
    each image; here the sums run over all images, so that one without a class counts by its false boundary only. The
    mean is over the classes that have a true boundary. An ignored pixel makes no boundary.
    It only sees edges: sum it with a loss of the regions.

    Args:
      logits: `[b, h, w, k]`; the softmax and all else in float32.
      labels: `[b, h, w]`, see the package's rules.
      tolerance: pixels, in both directions.
      axis_name: mapped axis over whose devices the boundaries are summed before the ratios.

    Returns:
      `(loss_sum, count)`: the loss times the valid pixels, and these.

    >>> loss_sum, count = jax.jit(boundary)(jnp.zeros((1, 1, 4, 2)), jnp.array([[[0, 0, 1, 1]]]))
    >>> float(loss_sum / count)
    1.0
    """
    z, truth, valid, known = inputs(logits, labels)
    seen = valid[..., None]

    def edges(region):
        # A neighbour that is ignored, or outside the image, is no reason for a boundary: 0 is the least complement.
        complement = jnp.where(seen, 1.0 - region, 0.0)
        edge = jnp.where(seen, max_pool(complement, 3, 1, 1) - complement, 0.0)
        return edge, max_pool(edge, 2 * tolerance + 1, 1, tolerance)

    (predicted, near_predicted), (true, near_true) = edges(jax.nn.softmax(z)), edges(truth)
    terms = (predicted * near_true, predicted, true * near_predicted, true)
    right, all_predicted, found, all_true = over_devices(jnp.stack([x.sum((0, 1, 2)) for x in terms]), axis_name)
    precision, recall = ratio(right, all_predicted, _EPS), ratio(found, all_true)
    score = ratio(2 * precision * recall, precision + recall, _EPS)
    present = all_true > 0
    loss = ratio(jnp.where(present, 1.0 - score, 0.0).sum(), present.sum().astype(jnp.float32))
    loss_sum, count = spread(loss, labels, axis_name)
    return jnp.where(known, loss_sum, jnp.nan), count
