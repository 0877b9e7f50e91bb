"""Evaluation of a whole split by the steps of a run, and its picture."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from ml_collections import ConfigDict

from attnseg_jax.data.pipeline import eval_batches
from attnseg_jax.data.sources import Source
from attnseg_jax.errors import NotFinite, UserError, nearest
from attnseg_jax.evaluation import tables
from attnseg_jax.evaluation.counts import Counter, iou
from attnseg_jax.evaluation.mistakes import Mistakes
from attnseg_jax.evaluation.scores import Collector, Scores, score_batches
from attnseg_jax.ops.metrics import mean_of_known, ratio
from attnseg_jax.plots import segmentation
from attnseg_jax.plots.drawing import write_png
from attnseg_jax.train.logging import ImageBar
from attnseg_jax.train.memory import fitting, host_bytes, shared
from attnseg_jax.train.parallel import Parallel
from attnseg_jax.train.sizes import evaluation_multiple

# Of the host's memory, how much the images of one batch may take: as many are decoded ahead, and copied once or twice.
_SHARE = 1 / 8


def sample_indices(length: int, samples: int, processes: int = 1) -> list[int]:
    """Evenly spread indices of the images that are drawn at each evaluation.

    With several processes they are multiples of their number: where all images have one size, those are the rows of
    process 0, which draws.

    >>> sample_indices(101, 4)
    [0, 33, 67, 100]
    """
    return sorted({round(i) // processes * processes for i in np.linspace(0, length - 1, min(samples, length))})


@dataclass(frozen=True)
class Evaluation:
    """Scores of a split, and for some images, by their index, the train ids `[h, w]` that were predicted.

    `samples` are the same images every time, `worst` those with the lowest mIoU, the lowest first, `best` those with
    the highest. `ids` are the names of the images by their index; with several processes, those of the process's own
    rows.
    """

    scores: Scores
    samples: dict[int, np.ndarray]
    worst: dict[int, np.ndarray] = field(default_factory=dict)
    best: dict[int, np.ndarray] = field(default_factory=dict)
    ids: dict[int, str] = field(default_factory=dict)


def evaluate_split(
    config: ConfigDict,
    model: nn.Module,
    parallel: Parallel,
    variables: PyTree,
    source: Source,
    *,
    between: Callable[[], None] = lambda: None,
    mistakes: Mistakes | None = None,
) -> Evaluation:
    """Scores every image of `source` at full size; keeps the predictions of `config.eval.samples` and the worst.

    `variables`, parameters and statistics, come from `Parallel.put_state` or a train step. `between` is called after
    every batch, and may raise. `mistakes` looks at every image.

    Raises:
      UserError: an image is too large for the memory; smaller batches than `config.eval.batch_size` were tried.
      NotFinite: the logits of an image, which it names, are not finite.
    """
    batches = eval_batches(
        source,
        config.data,
        batch_size=config.eval.batch_size,
        max_bytes=shared(host_bytes()) * _SHARE,
        multiple=evaluation_multiple(config, model),
        padding=config.eval.padding,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    recorder, losses, confidence = Recorder(config, source), [], None

    def on_batch(batch: Mapping[str, Any], predictions: Any) -> None:
        nonlocal confidence
        between()
        losses.append(float(predictions.cross_entropy))
        counts = np.asarray(predictions.confidence, np.int64)
        confidence = counts if confidence is None else confidence + counts
        with naming_images(lambda row: str(batch["id"][row])):
            found = np.asarray(predictions)
        recorder(batch, found)
        if mistakes:
            mistakes(batch, found, predictions.sure())

    with recorder.bar:
        scores = score_batches(
            lambda batch: parallel.evaluate(variables, batch),
            fitting(batches, parallel, variables),
            source.info.num_classes,
            on_batch=on_batch,
        )
    cross_entropy = float(ratio(math.fsum(losses), scores.confusion.sum()))
    return recorder.evaluation(replace(scores, cross_entropy=cross_entropy, confidence=confidence))


def left_out(config: ConfigDict, class_names: Sequence[str]) -> tuple[int, ...]:
    """The classes that `config.eval.ignore_classes` names.  Raises UserError for a name that is none, and for all."""
    names = config.eval.ignore_classes
    for name in names:
        if name not in class_names:
            raise UserError(f"config.eval.ignore_classes={names}: {name!r} is no class ({nearest(name, class_names)})")
    if {*names} == {*class_names}:
        raise UserError(f"config.eval.ignore_classes={names} leaves no class to average over: leave one of them in")
    return tuple(k for k, name in enumerate(class_names) if name in names)


class Recorder:
    """An `on_batch` of `score_batches` that takes down what an `Evaluation` holds of the images.

    Attributes:
      bar: says how far it is where it is used as a context.
    """

    def __init__(self, config: ConfigDict, source: Source):
        self._size, self._ids = source.size, {}
        self._counter, self._pace = Counter(len(source), source.info.num_classes, source.size), Pace()
        self._collector = Collector(sample_indices(len(source), config.eval.samples, jax.process_count()))
        self._left_out = left_out(config, source.info.class_names)
        extreme = partial(Extreme, config.eval.worst, self._counter, source.size, self._left_out)
        self._worst, self._best = extreme(), extreme(highest=True)
        self.bar = ImageBar("evaluate", len(source))

    def __call__(self, batch: Mapping[str, Any], predictions: np.ndarray) -> None:
        """Takes down the rows of a batch of `eval_batches` whose `index` is not negative."""
        self._ids.update((int(i), str(name)) for i, name in zip(batch["index"], batch["id"]) if i >= 0)
        for part in (self._collector, self._counter, self._worst, self._best, self._pace, self.bar):
            part(batch, predictions)

    def evaluation(self, scores: Scores) -> Evaluation:
        """The `scores` of all batches with those of the images, when all were seen."""
        images = self._counter.result(over_processes)
        # Without what the images were padded with.
        samples = {
            index: prediction[: self._size(index)[0], : self._size(index)[1]]
            for index, prediction in sorted(self._collector.predictions.items())
        }
        scores = replace(scores, images=images, image_seconds=self._pace.image_seconds).without(self._left_out)
        return Evaluation(scores, samples, self._worst.predictions(), self._best.predictions(), self._ids)


@contextmanager
def naming_images(name: Callable[[int], str]) -> Iterator[None]:
    """Lets NotFinite name the images that it was seen in; `name` gives that of a row."""
    try:
        yield
    except NotFinite as error:
        # With several processes the row may be another one's.
        where = f", as of image {name(error.rows[0])!r}" if error.rows else ""
        raise NotFinite(
            f"{error}{where}: the weights are ruined, by a training that diverged or in the file that they are from; "
            "take another checkpoint or file",
            error.rows,
        ) from None


def draw_samples(evaluation: Evaluation, source: Source, path: Path, step: int | None) -> None:
    """Draws the predictions of an evaluation beside image and truth into one PNG; without any, nothing.

    `source` is the split and `step` the model's, for the heading; None of masks without a model.
    """
    titles = dict.fromkeys(evaluation.samples, "") | dict.fromkeys(evaluation.worst, "among the worst, ")
    if not titles:
        return
    records = [source[index] for index in titles]
    predictions = evaluation.worst | evaluation.samples
    scores = evaluation.scores
    miou = tables.mean_of(scores, source.info.class_names)
    heading = f"mIoU {miou}, pixel accuracy {scores.pixel_accuracy:.4f} of {len(source)} images"
    if step is not None:
        heading = f"step {step}: {heading}"
    picture = segmentation.prediction_picture(
        [source.info.shown(record["image"]) for record in records],
        [record["label"] for record in records],
        [predictions[index] for index in titles],
        source.info.class_names,
        source.info.palette,
        titles=[f"{title}{record['id']}" for title, record in zip(titles.values(), records)],
        heading=heading,
        left_out=scores.left_out,
    )
    write_png(path, picture)


class Extreme:
    """An `on_batch` that keeps the predictions of the images with the lowest mIoU; with several processes, its own.

    Args:
      number: how many.
      counter: has counted the batch already.
      size: place of an image in the split -> (h, w) without padding.
      left_out: classes that do not count.
      highest: keeps those with the highest mIoU instead.
    """

    def __init__(
        self,
        number: int,
        counter: Counter,
        size: Callable[[int], tuple[int, int]],
        left_out: Sequence[int] = (),
        *,
        highest: bool = False,
    ):
        self._number, self._counter, self._size, self._left_out = number, counter, size, [*left_out]
        self._sign = -1 if highest else 1
        self._kept: list[tuple[float, int, np.ndarray]] = []

    def __call__(self, batch: Mapping[str, Any], predictions: np.ndarray) -> None:
        """Looks at the rows of a batch whose `index` [b] is not negative; `predictions` are [b, h, w]."""
        for row, index in enumerate(np.asarray(batch["index"]).tolist() if self._number else []):
            counts = np.delete(self._counter.of(index), self._left_out, axis=0)
            miou = self._sign * float(mean_of_known(iou(counts))) if index >= 0 else math.nan
            if not math.isnan(miou) and (len(self._kept) < self._number or (miou, index) < self._kept[-1][:2]):
                h, w = self._size(index)
                self._kept.append((miou, index, predictions[row, :h, :w].copy()))
                self._kept = sorted(self._kept, key=lambda one: one[:2])[: self._number]

    def predictions(self) -> dict[int, np.ndarray]:
        """Place -> prediction `[h, w]`, the most extreme mIoU first."""
        return {index: prediction for _, index, prediction in self._kept}


class Pace:
    """An `on_batch` that tells how long an image takes, from the end of the first batch, which compiles, to the last's.

    Where images have several sizes the later ones compile within that time.

    That is all of an evaluation: reading, prediction and counting. With several processes each sees all their images.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock, self._since, self._seconds, self._images = clock, None, 0.0, 0

    def __call__(self, batch: Mapping[str, Any], predictions: Any) -> None:
        """Notes that a batch with `valid` [b] is done."""
        now = self._clock()
        if self._since is None:
            self._since = now
        else:
            self._seconds = now - self._since
            self._images += int(np.sum(batch["valid"])) * jax.process_count()

    @property
    def image_seconds(self) -> float:
        """Seconds an image; NaN where there was one batch only."""
        return self._seconds / self._images if self._images else float("nan")


def over_processes(counts: np.ndarray) -> np.ndarray:
    """The sum of the processes' counts; each image has some in one of them only."""
    if jax.process_count() == 1:
        return counts
    return np.asarray(multihost_utils.process_allgather(counts)).sum(0)
