"""Class weights from counts of pixels."""

import numpy as np


def median_frequency_weights(pixels: np.ndarray, pixels_where_present: np.ndarray | None = None) -> np.ndarray:
    """Class weights by median frequency balancing (Eigen & Fergus 2015, arXiv:1411.4734).

    A class's frequency is its pixels over the pixels of all images that contain it; its weight is the median
    frequency over its own. A class without pixels has weight 0 and does not enter the median.

    Args:
      pixels: `[k]`, labelled pixels of each class in the training set.
      pixels_where_present: `[k]`, labelled pixels, of any class, of the images that contain the class. By default
        every class is assumed to occur in every image: the weight is then the median count over the count.

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


def weights_of_presence(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights of independent classes where they are there, beside 1 where they are not, by which both count alike.

    That is the ratio of their frequencies in the images that show the class. A class without pixels has weight 0.

    Args:
      pixels: `[k]`, where each class is there in the training set.
      labels: `[k]`, of each class, of either kind, in the images that show it.

    Returns:
      float32 `[k]`.

    >>> weights_of_presence(np.array([10, 50, 0]), np.array([100, 100, 0])).tolist()
    [9.0, 1.0, 0.0]
    """
    pixels, labels = np.asarray(pixels, np.float64), np.asarray(labels, np.float64)
    return np.where(pixels > 0, (labels - pixels) / np.maximum(pixels, 1), 0.0).astype(np.float32)
