"""Segmentation scores from a confusion matrix, counted in integers on the device and summed in int64 on the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.labels import IGNORE_LABEL

BINS = 6000
"""Bins of `confidence_counts`: so narrow that means over them are exact to 1e-4, and a multiple of 10, 15 and 20."""


def as_pair(logits: Float[Array, "*b"]) -> Float[Array, "*b 2"]:
    """The logits of not being there and of being there, whose softmax is the sigmoid of `logits`.

    >>> as_pair(jnp.array([3.0])).tolist()
    [[0.0, 3.0]]
    """
    return jnp.stack([jnp.zeros_like(logits), logits], -1)


def confusion_matrix(
    prediction: Int[Array, "b h w *c"], labels: Int[Array, "b h w *c"], num_classes: int
) -> Int[Array, "..."]:
    """Number of pixels for each true class (row) and predicted class (column), int32 `[k, k]`.

    Pixels are left out if their label is 255, or if their label or prediction is not a class.

    Of labels `[b, h, w, k]`, which say of each class whether it is there (1) or not (0): of each class, int32
    `[k, 2, 2]`.

    Raises:
      ValueError: the two have different shapes.

    >>> confusion_matrix(jnp.array([[[0, 1, 1]]]), jnp.array([[[0, 0, 255]]]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    if prediction.shape != labels.shape:
        raise ValueError(f"prediction {prediction.shape} and labels {labels.shape} must have one shape")
    if labels.ndim == 4:
        each = functools.partial(confusion_matrix, num_classes=2)
        return jax.vmap(each, in_axes=-1)(prediction, labels)
    k = num_classes
    prediction, labels = prediction.astype(jnp.int32), labels.astype(jnp.int32)  # k * k does not fit into uint8
    cell = labels * k + prediction
    counted = (labels >= 0) & (labels < k) & (prediction >= 0) & (prediction < k) & (labels != IGNORE_LABEL)
    return jnp.zeros(k * k + 1, jnp.int32).at[jnp.where(counted, cell, k * k)].add(1)[:-1].reshape(k, k)


def confidence(logits: Float[Array, "*b k"]) -> Float[Array, "*b"]:
    """The largest of the softmax probabilities.

    >>> confidence(jnp.log(jnp.array([3.0, 1.0]))).item()
    0.75
    """
    return jnp.exp(jnp.max(logits, -1) - jax.nn.logsumexp(logits, -1))


def confidence_counts(
    logits: Float[Array, "b h w k"], labels: Int[Array, "b h w *c"], bins: int = BINS
) -> Int[Array, "... {bins} 2"]:
    """Pixels by how sure the prediction is and whether it is right: what calibration and thresholds need.

    The confidence is the largest softmax probability; bin `i` holds those from `i / bins` to below `(i + 1) / bins`,
    the last one those of 1, too. Pixels of label 255 are left out.

    Returns:
      int32 `[c, bins, 2]`: of two classes, `c` is the predicted one; of any other number the predicted classes are
      counted together, and `c` has one place. Last come pixels that are wrong, and right. Of labels `[b, h, w, k]` and
      logits of sigmoids: `[k, 2, bins, 2]`, of each class whether it is predicted.

    >>> confidence_counts(jnp.log(jnp.array([[[[0.1, 0.6, 0.3]]]])), jnp.array([[[1]]]), 4).tolist()
    [[[0, 0], [0, 0], [0, 1], [0, 0]]]
    """
    if labels.ndim == 4:
        return jax.vmap(lambda z, of: confidence_counts(as_pair(z), of, bins), in_axes=-1)(logits, labels)
    k = logits.shape[-1]
    prediction = jnp.argmax(logits, -1)
    place = jnp.clip((confidence(logits) * bins).astype(jnp.int32), 0, bins - 1)
    classes = 2 if k == 2 else 1
    if k == 2:
        place = place + bins * prediction.astype(jnp.int32)
    cell = 2 * place + (prediction == labels)
    size = classes * bins * 2
    cell = jnp.where(labels == IGNORE_LABEL, size, cell)
    return jnp.zeros(size + 1, jnp.int32).at[cell].add(1)[:-1].reshape(classes, bins, 2)


def outcomes(confusion: Int[np.ndarray, "k *c"]) -> tuple[Int[np.ndarray, "k"], ...]:
    """Of each class the pixels that are right, true and predicted, of a matrix of `confusion_matrix`.

    >>> outcomes(np.array([[[7, 2], [0, 1]]]))
    (array([1]), array([1]), array([3]))
    """
    if confusion.ndim == 3:
        return confusion[:, 1, 1], confusion[:, 1].sum(-1), confusion[:, :, 1].sum(-1)
    return np.diag(confusion), confusion.sum(1), confusion.sum(0)


def scores(confusion: Int[np.ndarray, "k *c"]) -> dict[str, float | Float[np.ndarray, " k"]]:
    """Scores of a confusion matrix (rows truth, columns prediction) summed over a data set, float64.

    Those of independent classes, `[k, 2, 2]`, are of being there; what is said of pixels holds of their labels.

    Returns:
      `iou` `[k]`: intersection over union, NaN for a class that occurs in neither truth nor prediction.
      `miou`: mean of the IoUs that are not NaN.
      `pixel_accuracy`: share of all pixels that are predicted correctly.
      `class_accuracy`: the same share among the pixels of each class, averaged over the classes in the truth.
      `frequency_weighted_iou`: mean of the IoUs, each weighted by its class's share of the true pixels.
      `dice`, `precision` `[k]`: twice the hits over the true and predicted pixels, the hits over the predicted ones.
      `mean_dice`: mean of the Dice scores that are not NaN.
      All are NaN for an empty matrix. These are mmsegmentation's definitions.

    >>> scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))["iou"].tolist()
    [0.75, 0.8, nan]
    """
    confusion = np.asarray(confusion, np.int64)
    k = len(confusion)
    if confusion.shape not in ((k, k), (k, 2, 2)) or confusion.min(initial=0) < 0:
        raise ValueError(f"needs a square matrix of counts, or one of 2 x 2 for each class, got {confusion.shape}")
    right, truth, predicted = outcomes(confusion)
    correct = np.trace(confusion, axis1=-2, axis2=-1).sum()
    iou = ratio(right, truth + predicted - right)
    dice = ratio(2 * right, truth + predicted)
    return {
        "miou": mean_of_known(iou),
        "pixel_accuracy": float(ratio(correct, confusion.sum())),
        "class_accuracy": mean_of_known(ratio(right, truth)),
        "frequency_weighted_iou": float(np.nansum(iou * truth) / truth.sum()) if truth.any() else float("nan"),
        "mean_dice": mean_of_known(dice),
        "iou": iou,
        "dice": dice,
        "precision": ratio(right, predicted),
    }


def ratio(
    part: Int[np.ndarray, "..."] | np.integer, whole: Int[np.ndarray, "..."] | np.integer
) -> Float[np.ndarray, "..."]:
    """Quotients of counts, float64; NaN where the divisor is 0.

    >>> ratio(np.array([3, 0]), np.array([4, 0])).tolist()
    [0.75, nan]
    """
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def mean_of_known(values: Float[np.ndarray, " n"]) -> float:
    """Mean of the values that are not NaN; NaN where all are.

    >>> mean_of_known(np.array([0.5, np.nan, 1.0]))
    0.75
    """
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
