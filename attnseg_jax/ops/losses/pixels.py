"""Losses that are sums over all pixels or the hard ones, and one over the classes present in an image."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses.sums import (
    are_independent,
    as_pixel_sum,
    entries,
    inputs,
    label_weights,
    over_devices,
    pixel_count,
    ratio,
)


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w *c"],
    *,
    class_weights: Float[Array, " k"] | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Summed cross-entropy and its divisor: the number of valid pixels, or the sum of their class weights.

    The quotient equals PyTorch's `cross_entropy(..., reduction="mean")` for every combination of the options. Of
    independent classes it is the binary cross-entropy, which equals that of two classes with the logits 0 and z.

    Args:
      class_weights: `[k]`, the weight of a pixel by its label; of independent classes, of the labels where they are
        there, beside 1 where they are not.
      label_smoothing: the share of the target that all classes get in equal parts (Szegedy et al. 2016); of independent
        classes, being there and not.

    >>> logits = jnp.zeros((1, 1, 3, 4))
    >>> loss_sum, count = cross_entropy(logits, jnp.array([[[0, 3, 255]]]))
    >>> round(float(loss_sum / count), 4), int(count)  # log(4), two pixels
    (1.3863, 2)
    """
    loss, _, known = _cross_entropies(logits, labels, class_weights, label_smoothing)
    return jnp.where(known, loss.sum(), jnp.nan), pixel_count(labels, class_weights=class_weights)


def _cross_entropies(logits, labels, class_weights, label_smoothing):
    """Loss and negative log-likelihood of each label, 0 where ignored; and `known` of the inputs."""
    z, one_hot, valid, known = inputs(logits, labels)
    k = z.shape[-1]
    if are_independent(labels, k):
        weights = 1.0 if class_weights is None else class_weights.astype(jnp.float32).reshape(1, 1, 1, k)
        target = (1 - label_smoothing) * one_hot + label_smoothing / 2
        loss = weights * target * jax.nn.softplus(-z) + (1 - target) * jax.nn.softplus(z)
        nll = jax.nn.softplus(jnp.where(one_hot > 0, -z, z))
        return *(jnp.where(valid, x, 0.0).reshape(labels.shape) for x in (loss, nll)), known
    valid = valid[..., 0]
    log_p = jax.nn.log_softmax(z)
    target = (1 - label_smoothing) * one_hot + label_smoothing / k
    if class_weights is not None:
        target = target * class_weights.astype(jnp.float32).reshape((1,) * labels.ndim + (k,))
    loss = jnp.where(valid, -(target * log_p).sum(-1), 0.0)
    return loss, jnp.where(valid, -(one_hot * log_p).sum(-1), 0.0), known


def hard_pixels(
    nll: Float[Array, "b h w *c"],
    labels: Int[Array, "b h w *c"],
    *,
    threshold: float,
    min_kept: float,
    axis_name: str | None = None,
) -> Bool[Array, "b h w *c"]:
    """The valid pixels whose true class has a probability below `threshold`, and at least the hardest ones.

    The same choice as mmsegmentation's OHEMPixelSampler without three of its defects. There the minimum is a number for
    each image of the batch, including padding and images without valid pixels; if there are fewer valid pixels than
    that, the easiest is dropped; and of pixels that are exactly as hard as the last one kept, none is kept (here all
    are), so that a network that starts with equal logits never learns.

    Args:
      nll: float32, minus the logarithm of the probability of the true class.
      threshold, min_kept, axis_name: as in `ohem`.

    Returns:
      True where a pixel is kept.

    Raises:
      ValueError: `threshold` or `min_kept` is not between 0 and 1.

    >>> hard_pixels(jnp.array([[[0.1, 0.7, 0.2]]]), jnp.array([[[0, 0, 0]]]), threshold=0.6, min_kept=0.0).tolist()
    [[[False, True, False]]]
    """
    for name, value in (("threshold", threshold), ("min_kept", min_kept)):
        # The value of a traced number is not known yet.
        if isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must lie between 0 and 1, as probabilities and shares do")
    valid = labels != IGNORE_LABEL
    # NaN counts as hard, so that it does not go unnoticed.
    nll = jnp.where(jnp.isnan(nll), jnp.inf, jnp.maximum(nll, 0.0))

    # Floats of at least 0 have the order of their bits as integers: a bisection of 31 steps finds the smallest value
    # among the hardest pixels of all devices without sorting or gathering them.
    bits = jnp.where(valid, lax.bitcast_convert_type(nll, jnp.int32), -1)
    total = over_devices(valid.sum(dtype=jnp.int32), axis_name)
    wanted = jnp.round(min_kept * total.astype(jnp.float32)).astype(jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = high - (high - low) // 2
        enough = over_devices((bits >= middle).sum(dtype=jnp.int32), axis_name) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    # Like `wanted`, since inside a `shard_map` they must vary over the same mesh axes.
    zero, infinity = jnp.zeros_like(wanted), jnp.full_like(wanted, 0x7F800000)
    least, _ = lax.fori_loop(0, 31, halve, (zero, infinity))
    among_hardest = (bits >= least) & (wanted > 0)
    return valid & (among_hardest | (nll > -jnp.log(jnp.float32(threshold))))


def ohem(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w *c"],
    *,
    threshold: float = 0.7,
    min_kept: float = 0.1,
    class_weights: Float[Array, " k"] | None = None,
    label_smoothing: float = 0.0,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of the hard pixels alone (online hard example mining, Shrivastava et al. 2016, arXiv:1604.03540).

    The mean is over the pixels that are kept. mmsegmentation divides by all pixels of the batch, including ignored
    and dropped ones, so that its loss shrinks as the network learns and as images are padded.

    Args:
      threshold: pixels whose true class has a smaller probability are kept; 0 keeps only the hardest.
      min_kept: at least this share of the valid pixels is kept, those with the least probability of their class.
      class_weights: `[k]`, as for `cross_entropy`; the choice does not depend on them.
      label_smoothing: as for `cross_entropy`.
      axis_name: mapped axis over whose devices the pixels are compared and the mean is taken.

    >>> logits = jnp.array([[[[4.0, 0], [1, 0], [0, 0]]]])
    >>> loss_sum, count = jax.jit(ohem)(logits, jnp.array([[[0, 0, 0]]]), threshold=0.6)
    >>> round(float(loss_sum / count), 4)  # log(2), the last pixel's
    0.6931
    """
    loss, nll, known = _cross_entropies(logits, labels, class_weights, label_smoothing)
    options = {"threshold": threshold, "min_kept": min_kept, "axis_name": axis_name}
    kept = hard_pixels(lax.stop_gradient(nll), labels, **options)
    kept_sum = over_devices(jnp.where(kept, loss, 0.0).sum(), axis_name)
    kept_count = over_devices(
        pixel_count(jnp.where(kept, labels, IGNORE_LABEL), class_weights=class_weights), axis_name
    )
    loss_sum, count = as_pixel_sum(ratio(kept_sum, kept_count), labels, axis_name)
    return jnp.where(known, loss_sum, jnp.nan), count


def focal(
    logits: Float[Array, "b h w k"],
    labels: Int[Array, "b h w *c"],
    *,
    gamma: float = 2.0,
    alpha: float = -1.0,
    normalized: bool = False,
    class_weights: Float[Array, " k"] | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): each class against the rest, the mean over the classes.

    `(1 - q)^gamma * -log(q)`, with q the sigmoid probability of being right. There is no softmax: each class has
    an independent score, and the largest is still the prediction.

    Args:
      gamma: at least 0; 0 gives binary cross-entropy.
      alpha: weight of a class at its own pixels, `1 - alpha` at all others; if negative, both are 1.
      normalized: divides each class's sum by that of `(1 - q)^gamma` instead of the number of pixels.
        segmentation_models_pytorch divides by both, so that the loss shrinks with the size of the images.
      class_weights: `[k]`, the weights of the mean over the classes.
      axis_name: mapped axis over whose devices `normalized` sums before the ratio.

    Returns:
      `(loss_sum, count)`: the sum over the valid pixels, and their number.

    >>> loss_sum, count = jax.jit(focal)(jnp.zeros((1, 1, 3, 4)), jnp.array([[[0, 3, 255]]]))
    >>> round(float(loss_sum / count), 4)  # log(2) / 4
    0.1733
    """
    z, one_hot, valid, known = inputs(logits, labels)
    # The logit of being right. Powers are exponentials of logarithms: no gradient is infinite where q rounds to 1.
    right = jnp.where(one_hot > 0, z, -z)
    factor = jnp.exp(-gamma * jax.nn.softplus(right))
    loss = factor * jax.nn.softplus(-right)
    if alpha >= 0:
        loss = loss * jnp.where(one_hot > 0, alpha, 1.0 - alpha)
    weights = jnp.ones(z.shape[-1]) if class_weights is None else class_weights.astype(jnp.float32)

    def by_class(x):
        return jnp.where(valid, x, 0.0).sum((0, 1, 2))

    if normalized:
        quotients = ratio(over_devices(by_class(loss), axis_name), over_devices(by_class(factor), axis_name), 1e-6)
        loss_sum, count = as_pixel_sum(ratio((quotients * weights).sum(), weights.sum()), labels, axis_name)
    else:
        loss_sum, count = ratio((by_class(loss) * weights).sum(), weights.sum()), pixel_count(labels)
        if labels.ndim == 4:
            # Some classes may have more labels than others.
            counts = valid.sum((0, 1, 2), dtype=jnp.int32).astype(jnp.float32)
            count = ratio((counts * weights).sum(), weights.sum())
    return jnp.where(known, loss_sum, jnp.nan), count


def presence_cross_entropy(
    logits: Float[Array, "b k"], labels: Int[Array, "b h w *c"], *, class_weights: Float[Array, " k"] | None = None
) -> Float[Array, ""]:
    """Summed binary cross-entropy of which classes are present in an image (EncNet, Zhang et al. 2018).

    An image's loss is the mean over the classes, times its number of valid pixels (or the sum of their class weights).
    The sum is therefore divided by the same count as `cross_entropy` of these labels, on any number of devices. If all
    images have equally many valid pixels, the quotient is EncNet's mean over images and classes.

    Args:
      class_weights: `[k]`, as for `cross_entropy`.

    Returns:
      A float32 scalar, NaN where a label is neither a class nor 255.

    >>> loss_sum = presence_cross_entropy(jnp.zeros((1, 4)), jnp.array([[[0, 3, 255]]]))
    >>> round(float(loss_sum / 2), 4)  # log(2)
    0.6931
    """
    b, k = logits.shape
    if labels.ndim not in (3, 4) or labels.shape[0] != b or labels.shape[3:] not in ((), (k,)):
        raise ValueError(
            f"logits [b, k] = {logits.shape} and labels [b, h, w] or [b, h, w, k] = {labels.shape} do not fit"
        )
    truth, valid, known = entries(labels, k)
    pixels = (truth * valid).sum((1, 2))
    weights = jnp.ones(k) if class_weights is None else class_weights.astype(jnp.float32)
    scores = logits.astype(jnp.float32)
    loss = (jax.nn.softplus(scores) - jnp.where(pixels > 0, scores, 0.0)).mean(-1)
    if are_independent(labels, k):
        size = label_weights(labels, weights).sum(range(1, labels.ndim))
    else:
        size = (pixels * weights.reshape(1, k)).sum(-1)
    return jnp.where(known, (loss * size).sum(), jnp.nan)
