"""Scores of a whole split from the confusion counts of its batches."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Integer

from attnseg_jax.evaluation.calibration import Thresholds, calibration, thresholds
from attnseg_jax.evaluation.counts import ImageCounts
from attnseg_jax.ops import metrics

Batch = Mapping[str, Any]
EvalFn = Callable[[Batch], tuple[Array | np.ndarray, Array | np.ndarray]]


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a split, between 0 and 1; NaN where no pixel decides.

    Of classes that do not exclude one another they are those of being there; what is said of pixels holds of the labels
    of each class, `[h, w, k]`.

    Attributes:
      miou: mean of `iou` over the classes that are not NaN, as are the other means over classes.
      pixel_accuracy: share of the pixels that are correct.
      class_accuracy: mean accuracy over the classes that occur in the truth.
      frequency_weighted_iou: mean of `iou`, each weighted by its class's share of the true pixels.
      mean_dice: mean of `dice` over the classes that are not NaN.
      iou: intersection over union of each class.
      dice: Dice score (F1) of each class.
      precision: share of the pixels predicted as each class that are of it.
      confusion: int64 pixel counts, rows truth, columns prediction; of each class where these may overlap.
      cross_entropy: mean over the pixels; NaN where that was not measured.
      images: the counts of each image, or None where they were not taken.
      confidence: pixels by how sure the prediction is (see `ops.metrics.confidence_counts`), or None.
      image_seconds: seconds that an image took; NaN where that was not measured.
      left_out: classes that count in no mean over classes, see `without`.
    """

    miou: float
    pixel_accuracy: float
    class_accuracy: float
    frequency_weighted_iou: float
    mean_dice: float
    iou: Float[np.ndarray, "k"]
    dice: Float[np.ndarray, "k"]
    precision: Float[np.ndarray, "k"]
    confusion: Int[np.ndarray, "k *c"]
    cross_entropy: float = float("nan")
    images: ImageCounts | None = None
    confidence: Int[np.ndarray, "*c n 2"] | None = None
    image_seconds: float = float("nan")
    left_out: tuple[int, ...] = ()

    @classmethod
    def from_confusion(cls, confusion: Integer[np.ndarray, "k *c"]) -> "Scores":
        """The scores of pixel counts, rows truth, columns prediction, see `ops.metrics.confusion_matrix`.

        >>> Scores.from_confusion(np.array([[3, 1], [0, 4]])).pixel_accuracy
        0.875
        """
        confusion = np.asarray(confusion, np.int64)
        return cls(**metrics.scores(confusion), confusion=confusion)

    def without(self, left_out: Sequence[int]) -> "Scores":
        """The same with means over all classes but those: `miou`, `mean_dice`, `class_accuracy`, `boundary_miou`.

        Pixels count as before, also those of a class that is left out, for whoever takes them for another.

        >>> Scores.from_confusion(np.array([[9, 1, 0], [0, 4, 4], [0, 0, 8]])).without([0]).class_accuracy
        0.75
        """
        means = {"miou": self.iou, "mean_dice": self.dice, "class_accuracy": self.accuracy}
        means = {name: metrics.mean_of_known(np.delete(values, [*left_out])) for name, values in means.items()}
        return dataclasses.replace(self, **means, left_out=tuple(left_out))

    @property
    def counted(self) -> Int[np.ndarray, "n m 3"]:
        """The counts of each image (see `ImageCounts.everywhere`) for the m classes that the means are over."""
        return np.delete(self.images.everywhere, [*self.left_out], axis=1)

    @property
    def boundary_iou(self) -> Float[np.ndarray, "k"]:
        """Boundary IoU per class [k] (see `evaluation.boundary_iou`); NaN without `images`."""
        return np.full(self.iou.shape, np.nan) if self.images is None else self.images.boundary_iou

    @property
    def boundary_miou(self) -> float:
        """Mean boundary IoU over the classes that have one."""
        return metrics.mean_of_known(np.delete(self.boundary_iou, [*self.left_out]))

    @property
    def boundary_f(self) -> Float[np.ndarray, "k"]:
        """Boundary F-score per class [k] (see `evaluation.boundary_f`); NaN without `images`."""
        return np.full(self.iou.shape, np.nan) if self.images is None else self.images.boundary_f

    @property
    def mean_boundary_f(self) -> float:
        """Mean boundary F-score over the classes that have one."""
        return metrics.mean_of_known(np.delete(self.boundary_f, [*self.left_out]))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error (see `evaluation.calibration`); NaN without `confidence`."""
        return float("nan") if self.confidence is None else calibration(self.confidence).error

    @property
    def accuracy(self) -> Float[np.ndarray, "k"]:
        """Share of each class's pixels [k] that were found; NaN for a class the truth lacks."""
        right, true, _ = metrics.outcomes(self.confusion)
        return metrics.ratio(right, true)

    @property
    def share(self) -> Float[np.ndarray, "k"]:
        """Share of the counted pixels [k] that the truth gives to each class; NaN when no pixel counts."""
        _, true, _ = metrics.outcomes(self.confusion)
        counted = self.confusion.sum((1, 2)) if self.multilabel else self.confusion.sum()
        return metrics.ratio(true, counted)

    @property
    def multilabel(self) -> bool:
        """Whether the classes do not exclude one another."""
        return self.confusion.ndim == 3

    @property
    def sweeps(self) -> dict[int, Thresholds]:
        """The scores of other thresholds, by class: of the second of two, or of each where they may overlap.

        Empty where there are more, or without `confidence`.
        """
        if self.confidence is None:
            return {}
        if self.multilabel:
            return {k: thresholds(counts) for k, counts in enumerate(self.confidence)}
        return {1: thresholds(self.confidence)} if len(self.confidence) == 2 else {}


class Collector:
    """An `on_batch` of `score_batches` that keeps the predictions of chosen images.

    Attributes:
      indices: places of these images in the split.
      predictions: place -> prediction [h, w]; with several processes, those of the process's own rows.
    """

    def __init__(self, indices: Iterable[int]):
        self.indices = frozenset(int(i) for i in indices)
        self.predictions: dict[int, np.ndarray] = {}

    def __call__(self, batch: Batch, predictions: Array | np.ndarray) -> None:
        """Looks for the chosen images in `batch['index']` [b]; fetches `predictions` [b, h, w] only if it has some."""
        rows = [(row, int(i)) for row, i in enumerate(np.asarray(batch["index"])) if int(i) in self.indices]
        if rows:
            predictions = np.asarray(predictions)
            self.predictions.update({index: predictions[row].copy() for row, index in rows})


def score_batches(
    eval_fn: EvalFn,
    batches: Iterable[Batch],
    num_classes: int,
    *,
    on_batch: Callable[[Batch, Array | np.ndarray], None] = lambda batch, predictions: None,
) -> Scores:
    """Scores of all batches together, counted in int64 on the host.

    Args:
      eval_fn: batch -> its confusion counts, integers [k, k] with rows truth and columns prediction (or [k, 2, 2], see
        `ops.metrics.confusion_matrix`), and its predictions, integers like the labels. A batch has `image`
        [b, h, w, c], `label` [b, h, w] or [b, h, w, k] and more, as numpy arrays; the labels of padding are 255. With
        several processes the counts are those of all of them.
      batches: the split.
      num_classes: classes k.
      on_batch: is called with every batch and its predictions (see `Collector`).

    Raises:
      ValueError: the counts are not those of so many classes.
    """
    k, total = num_classes, np.zeros((num_classes, num_classes), np.int64)
    dispatched = ((batch, *eval_fn(batch)) for batch in batches)
    # Batch n - 1 is read while the device works on batch n.
    for (batch, confusion, predictions), _ in itertools.pairwise(itertools.chain(dispatched, [None])):
        confusion = np.asarray(confusion)
        if confusion.shape not in ((k, k), (k, 2, 2)):
            raise ValueError(f"eval_fn returned counts of shape {confusion.shape}, expected {(k, k)} or {(k, 2, 2)}")
        total = total + confusion if confusion.shape == total.shape else confusion.astype(np.int64)
        on_batch(batch, predictions)
    return Scores.from_confusion(total)
