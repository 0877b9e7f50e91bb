"""Segmentation scores from a confusion matrix, counted in integers on the device and summed in int64 on the host."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.labels import IGNORE_LABEL

BINS = 6000
"""Bins of `confidence_counts`: so narrow that means over them are exact to 1e-4, and a multiple of 10, 15 and 20."""


def confusion_matrix(
    prediction: Int[Array, "b h w"], labels: Int[Array, "b h w"], num_classes: int
) -> Int[Array, "{num_classes} {num_classes}"]:
    """Number of pixels for each true class (row) and predicted class (column), int32 `[k, k]`.

    Pixels are left out if their label is 255, or if their label or prediction is not a class.

    Raises:
      ValueError: the two have different shapes.

    >>> confusion_matrix(jnp.array([[[0, 1, 1]]]), jnp.array([[[0, 0, 255]]]), 2).tolist()
    [[1, 1], [0, 0]]
    """
    if prediction.shape != labels.shape:
        raise ValueError(f"prediction {prediction.shape} and labels {labels.shape} must have one shape")
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
    logits: Float[Array, "b h w k"], labels: Int[Array, "b h w"], bins: int = BINS
) -> Int[Array, "c {bins} 2"]:
    """Pixels by how sure the prediction is and whether it is right: what calibration and thresholds need.

    The confidence is the largest softmax probability; bin `i` holds those from `i / bins` to below `(i + 1) / bins`,
    the last one those of 1, too. Pixels of label 255 are left out.

    Returns:
      int32: of two classes, `c` is the predicted one; of any other number the predicted classes are counted together,
      and `c` has one place. Last come pixels that are wrong, and right.

    >>> confidence_counts(jnp.log(jnp.array([[[[0.1, 0.6, 0.3]]]])), jnp.array([[[1]]]), 4).tolist()
    [[[0, 0], [0, 0], [0, 1], [0, 0]]]
    """
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


def scores(confusion: Int[np.ndarray, "k k"]) -> dict[str, float | Float[np.ndarray, " k"]]:
    """Scores of a confusion matrix (rows truth, columns prediction) summed over a data set, float64.

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
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.min(initial=0) < 0:
        raise ValueError(f"needs a square matrix of counts, got {confusion.shape}")
    right, truth, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    iou = ratio(right, truth + predicted - right)
    dice = ratio(2 * right, truth + predicted)
    return {
        "miou": mean_of_known(iou),
        "pixel_accuracy": float(ratio(right.sum(), truth.sum())),
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
