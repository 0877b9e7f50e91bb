"""Losses that return sums and counts, so that devices and microbatches add up exactly and divide once."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.labels import IGNORE_LABEL


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w"],
    *,
    class_weights: Float[Array, " k"] | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Summed cross-entropy and the number of pixels (or the sum of their weights) it has to be divided by.

    The quotient equals PyTorch's `cross_entropy(..., reduction="mean")` in all combinations of the options.

    Args:
      logits: `[b, h, w, k]`; computed in float32.
      labels: `[b, h, w]`, in `[0, k)` or 255, which ignores the pixel: its gradient is exactly zero. With no pixel
        left both results are 0. Any other label is a fault of the data and makes the loss NaN.
      class_weights: `[k]`, the weight of a pixel by its label.
      label_smoothing: the share of the target spread evenly over all classes (Szegedy et al. 2016).

    Returns:
      `(loss_sum, count)`, float32 scalars.

    >>> logits = jnp.zeros((1, 1, 3, 4))
    >>> loss_sum, count = cross_entropy(logits, jnp.array([[[0, 3, 255]]]))
    >>> round(float(loss_sum / count), 4), int(count)  # log(4), two pixels
    (1.3863, 2)
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits [b, h, w, k] = {logits.shape} and labels [b, h, w] = {labels.shape} do not fit")
    k = logits.shape[-1]
    valid = labels != IGNORE_LABEL
    # Ignored pixels lose their logits first, so that not even an infinite one reaches the gradient.
    log_p = jax.nn.log_softmax(jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0))
    one_hot = (labels[..., None] == jnp.arange(k).reshape((1,) * labels.ndim + (k,))).astype(jnp.float32)
    target = (1 - label_smoothing) * one_hot + label_smoothing / k
    if class_weights is not None:
        weights = class_weights.astype(jnp.float32).reshape((1,) * labels.ndim + (k,))
        target = target * weights
        count = jnp.where(valid, (one_hot * weights).sum(-1), 0.0).sum()
    else:
        count = valid.sum(dtype=jnp.int32).astype(jnp.float32)  # a float32 counter would stop at 2 ** 24
    loss = jnp.where(valid, -(target * log_p).sum(-1), 0.0)
    known = (labels >= 0) & (labels < k) | ~valid
    return jnp.where(known.all(), loss.sum(), jnp.nan), count


def presence_cross_entropy(
    logits: Float[Array, "b k"],
    labels: Int[Array, "b h w"],
    *,
    class_weights: Float[Array, " k"] | None = None,
) -> Float[Array, ""]:
    """Summed binary cross-entropy of the question which classes an image shows (EncNet, Zhang et al. 2018).

    An image's loss is the mean over the classes; in the sum it counts by its valid pixels (their weights, where classes
    have some), so that it is divided by the same count as `cross_entropy` of these labels, whatever the
    devices. Where all images have as many valid pixels the quotient is EncNet's mean over images and classes.

    Args:
      logits: `[b, k]`; computed in float32.
      labels: `[b, h, w]`, in `[0, k)` or 255, which is ignored.
      class_weights: `[k]`, as for `cross_entropy`.

    Returns:
      A float32 scalar.

    >>> loss_sum = presence_cross_entropy(jnp.zeros((1, 4)), jnp.array([[[0, 3, 255]]]))
    >>> round(float(loss_sum / 2), 4)  # log(2)
    0.6931
    """
    b, k = logits.shape
    if labels.ndim != 3 or labels.shape[0] != b:
        raise ValueError(f"logits [b, k] = {logits.shape} and labels [b, h, w] = {labels.shape} do not fit")
    pixels = (labels[..., None] == jnp.arange(k).reshape(1, 1, 1, k)).sum((1, 2)).astype(jnp.float32)
    weights = jnp.ones(k) if class_weights is None else class_weights.astype(jnp.float32)
    scores = logits.astype(jnp.float32)
    loss = (jax.nn.softplus(scores) - jnp.where(pixels > 0, scores, 0.0)).mean(-1)
    return (loss * (pixels * weights.reshape(1, k)).sum(-1)).sum()


def mean(loss_sum: Float[Array, ""], count: Float[Array, ""]) -> Float[Array, ""]:
    """`loss_sum / count`, and 0 with zero gradient where `count` is 0.

    >>> float(mean(jnp.float32(6), jnp.float32(4))), float(mean(jnp.float32(0), jnp.float32(0)))
    (1.5, 0.0)
    """
    return jnp.where(count > 0, loss_sum / jnp.where(count > 0, count, 1.0), 0.0)


def median_frequency_weights(pixels: np.ndarray, pixels_where_present: np.ndarray | None = None) -> np.ndarray:
    """Class weights by median frequency balancing (Eigen & Fergus 2015, arXiv:1411.4734).

    A class's frequency is its pixels over the pixels of all images that contain it; its weight is the median
    frequency over its own. A class without pixels takes no part and gets weight 0.

    Args:
      pixels: `[k]`, labelled pixels of each class in the training set.
      pixels_where_present: `[k]`, labelled pixels (of whatever class) of the images that contain the class. Without
        it every class is taken to occur in every image, which leaves median count over count.

    Returns:
      float32 `[k]`.

    >>> median_frequency_weights(np.array([50, 100, 0, 400])).tolist()
    [2.0, 1.0, 0.0, 0.25]
    """
    pixels = np.asarray(pixels, np.float64)
    total = np.ones_like(pixels) if pixels_where_present is None else np.asarray(pixels_where_present, np.float64)
    weights = np.zeros(len(pixels), np.float32)
    present = pixels > 0
    if present.any():
        frequency = pixels[present] / total[present]
        weights[present] = np.median(frequency) / frequency
    return weights
