"""Losses of the overlap between the predicted and the true region of each class: Dice, Jaccard, Tversky.

They follow segmentation_models_pytorch 0.6: the sums are over all pixels of the batch, and a class without pixels
contributes 0 to the mean over all classes. Every class has the same weight whatever its size, so there are no class
weights.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.losses.sums import as_pixel_sum, inputs, over_devices, probabilities

_EPS = 1e-7


def dice(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w *c"],
    *,
    smooth: float = 0.0,
    log: bool = False,
    classes: tuple[int, ...] = (),
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """One minus the Dice coefficient `2 |P T| / (|P| + |T|)` of soft regions (Milletari et al. 2016, arXiv:1606.04797).

    Numerator and denominator are both halved, and `smooth` is added to the halves.

    Args:
      smooth: in pixels, added to numerator and denominator.
      log: takes `-log(score)` instead of `1 - score`.
      classes: the classes to average over; all by default.
      axis_name: mapped axis over whose devices the regions are summed before the ratio.

    >>> loss_sum, count = dice(jnp.zeros((1, 1, 3, 2)), jnp.array([[[0, 0, 255]]]))
    >>> round(float(loss_sum / count), 4)  # (1 - 2 * 1 / (1 + 2)) / 2
    0.1667
    """
    return _loss(logits, labels, 0.5, 0.5, smooth, log, classes, 1.0, axis_name)


def jaccard(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w *c"],
    *,
    smooth: float = 0.0,
    log: bool = False,
    classes: tuple[int, ...] = (),
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """One minus the intersection over union of soft regions (Rahman & Wang 2016); arguments as in `dice`.

    >>> loss_sum, count = jaccard(jnp.zeros((1, 1, 3, 2)), jnp.array([[[0, 0, 255]]]))
    >>> round(float(loss_sum / count), 4)  # (1 - 1 / 2) / 2
    0.25
    """
    return _loss(logits, labels, 1.0, 1.0, smooth, log, classes, 1.0, axis_name)


def tversky(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w *c"],
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    smooth: float = 0.0,
    log: bool = False,
    classes: tuple[int, ...] = (),
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """One minus the Tversky index `TP / (TP + alpha FP + beta FN)` (Salehi et al. 2017, arXiv:1706.05721).

    `gamma` is the exponent of the mean over the classes, as segmentation_models_pytorch has it (Abraham & Khan 2018,
    arXiv:1810.07842, raise each class's loss). At a loss of 0 the original's gradient is NaN for `gamma` below 1; here
    it is 0.

    Args:
      alpha: weight of the false positives.
      beta: weight of the false negatives.
      gamma: above 0.
      smooth, log, classes, axis_name: as in `dice`.

    >>> loss_sum, count = tversky(jnp.zeros((1, 1, 3, 2)), jnp.array([[[0, 0, 255]]]))
    >>> round(float(loss_sum / count), 4)  # (1 - 1 / (1 + 0.7)) / 2
    0.2059
    """
    return _loss(logits, labels, alpha, beta, smooth, log, classes, gamma, axis_name)


def _loss(logits, labels, alpha, beta, smooth, log, classes, gamma, axis_name):
    k = logits.shape[-1]
    if not all(0 <= c < k for c in classes):
        raise ValueError(f"classes={classes} must be among the {k} of the logits")
    sums, known = _overlap(logits, labels)
    both, predicted, true = over_devices(sums, axis_name)
    score = (both + smooth) / jnp.maximum(both + alpha * (predicted - both) + beta * (true - both) + smooth, _EPS)
    by_class = -jnp.log(jnp.maximum(score, _EPS)) if log else 1.0 - score
    by_class = jnp.where(true > 0, by_class, 0.0)
    loss = by_class[jnp.array(classes)].mean() if classes else by_class.mean()
    if gamma != 1.0:
        none = loss <= 0
        loss = jnp.where(none, 0.0, jnp.where(none, 1.0, loss) ** gamma)
    loss_sum, count = as_pixel_sum(loss, labels, axis_name)
    return jnp.where(known, loss_sum, jnp.nan), count


def _overlap(logits, labels):
    """`[3, k]`: the sums over the valid pixels of prediction and truth together, prediction, truth."""
    z, truth, valid, known = inputs(logits, labels)
    p = jnp.where(valid, probabilities(z, labels), 0.0)
    truth = jnp.where(valid, truth, 0.0)
    return jnp.stack([x.sum((0, 1, 2)) for x in (p * truth, p, truth)]), known
