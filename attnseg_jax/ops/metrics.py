"""Segmentation scores from a confusion matrix, counted in integers on the device and summed in int64 on the host."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.labels import IGNORE_LABEL


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


def scores(confusion: Int[np.ndarray, "k k"]) -> dict[str, float | Float[np.ndarray, " k"]]:
    """Scores of a confusion matrix (rows truth, columns prediction) summed over a data set, float64.

    Returns:
      `iou` `[k]`: intersection over union, NaN for a class that occurs in neither truth nor prediction.
      `miou`: mean of the IoUs that are not NaN.
      `pixel_accuracy`: share of all pixels that are predicted correctly.
      `class_accuracy`: the same share among the pixels of each class, averaged over the classes in the truth.
      All are NaN for an empty matrix. These are mmsegmentation's definitions.

    >>> scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))["iou"].tolist()
    [0.75, 0.8, nan]
    """
    confusion = np.asarray(confusion, np.int64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.min(initial=0) < 0:
        raise ValueError(f"needs a square matrix of counts, got {confusion.shape}")
    right, truth, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    iou = ratio(right, truth + predicted - right)
    return {
        "miou": mean_of_known(iou),
        "pixel_accuracy": float(ratio(right.sum(), truth.sum())),
        "class_accuracy": mean_of_known(ratio(right, truth)),
        "iou": iou,
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
