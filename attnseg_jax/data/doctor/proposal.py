"""Findings to a config: every decision with its reason."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnseg_jax.data import limits
from attnseg_jax.data.doctor.labels import Labels
from attnseg_jax.data.doctor.splits import Splits
from attnseg_jax.data.doctor.summary import Summary
from attnseg_jax.data.layouts import Layout
from attnseg_jax.ops.labels import IGNORE_LABEL

# Height and width of a training crop at most, and bytes for each pixel of a batch of them: the default model's training
# step takes 660, which leaves room for larger models.
_CROP, _BYTES = 512, 5000
_BATCHES = (16, 8, 4, 2)
_EPOCHS, _STEPS = 40, (400, 8000)
_RARE = 10
# Share of the pixels that are not of the first class, below which most crops show nothing.
_SPARSE = 0.05
# Share of the images that show a class below which it is rare, and pairs that tell so.
_RARELY, _LEAST_PAIRS = 0.1, 20


@dataclass(frozen=True)
class Decision:
    """A key of the config below `config`, its value, and why."""

    key: str
    value: Any
    reason: str


def propose(
    root: Path,
    layout: Layout,
    splits: Splits,
    labels: Labels,
    summary: Summary,
    leave_out: Sequence[str],
    drawn: Sequence[str] = (),
    of_classes: Sequence[Decision] = (),
) -> list[Decision]:
    """The differences of a config from the default one, in the order in which they are read.

    Args:
      root: the folder.
      layout: of its files.
      splits: to train and evaluate on.
      labels: how masks are read.
      summary: what was read.
      leave_out: files that cannot be used.
      drawn: labels of annotation files, in the order of the raw ids.
      of_classes: of a set with a mask for each class, in the place of how masks of all classes are read.
    """
    return [
        *_of_folder(root, layout, splits, leave_out),
        *_of_channels(summary, splits),
        *(of_classes or _of_labels(labels, drawn)),
        *_of_sizes(summary, splits),
        *_of_training(summary, splits, labels),
        *([] if of_classes else _of_sampling(summary, splits, labels)),
    ]


def _of_folder(root: Path, layout: Layout, splits: Splits, leave_out: Sequence[str]) -> list[Decision]:
    form = layout.form
    where = f"images are {form.images}, masks {form.masks}" if form.images else f"pairs are listed in {form.names}"
    found = [
        Decision("data.source", "folder", "image and mask files, and where they are"),
        Decision("data.dir", str(root), ""),
        Decision("data.layout", layout.name, where),
    ]
    if layout.name in ("templates", "stacks"):
        found += [
            Decision("data.images", form.images, "names of the images, found by comparing names"),
            Decision("data.masks", form.masks, "and of their masks"),
        ]
    if layout.name == "lists":
        found.append(Decision("data.lists", form.names, "the list that was found"))
    reason = splits.reason
    found += [Decision("data.train_split", splits.train, reason), Decision("data.eval_split", splits.validation, "")]
    if splits.split:
        found.append(Decision("data.split", splits.split, "" if reason else "no validation split"))
    if leave_out:
        reason = f"{len(leave_out)} image{'s' if len(leave_out) > 1 else ''} that cannot be trained on, see the report"
        found.append(Decision("data.leave_out", tuple(leave_out), reason))
    return found


def _of_channels(summary: Summary, splits: Splits) -> list[Decision]:
    """For images that are not 8-bit RGB."""
    if not summary.channels:
        return []
    moments = summary.moments[splits.train]
    kinds = sorted({mode for _, mode, _ in summary.images if mode.startswith(f"{summary.channels} x ")})
    measured = f"of {moments.pixels:,} pixels of the training images"
    # A constant channel tells nothing, however it is scaled.
    std = tuple(_short(value) or 1.0 for value in moments.std)
    found = [
        Decision("data.channels", summary.channels, f"the images are no 8-bit RGB: {', '.join(kinds)}"),
        Decision("data.mean", tuple(map(_short, moments.mean)), f"mean of each channel, {measured}"),
        Decision("data.std", std, "and their deviation"),
    ]
    if summary.channels >= 3:
        found.append(Decision("data.show", (0, 1, 2), "the channels that pictures show as red, green and blue"))
    return found


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _of_labels(labels: Labels, drawn: Sequence[str]) -> list[Decision]:
    reasons = labels.reasons
    if labels.known:
        return [Decision("data.name", labels.known, reasons["name"])]
    found = [
        Decision("data.name", "", "no data set that is known by name"),
        Decision("data.classes", labels.names, reasons.get("classes", "")),
    ]
    if drawn and tuple(drawn) != labels.names:
        reason = "the labels of the annotations: the place is the raw id"
        found.append(Decision("data.labels", tuple(drawn), reason))
    if labels.palette:
        found.append(Decision("data.palette", labels.palette, "the colours that the masks have, for pictures"))
    if labels.coloured:
        colours = tuple(labels.table)
        found.append(Decision("data.colors", colours, "masks are pictures: the colour of each raw id"))
        pairs = tuple(enumerate(labels.table.values()))
    else:
        pairs = tuple(labels.table.items())
    ids = [(raw, train) for raw, train in pairs if not raw == train == IGNORE_LABEL]
    ignored = reasons.get("ignored", "")
    if any(raw != train for raw, train in ids):
        what = "place in data.colors, class" if labels.coloured else "raw value of the masks, class"
        reason = "; ".join(filter(None, [reasons.get("ids", ""), f"{what} (255 is ignored)", ignored]))
        found.append(Decision("data.ids", tuple(pairs), reason))
    else:
        reason = "; ".join(filter(None, ["the values of the masks are the classes already", ignored]))
        found.append(Decision("data.ids", (), reason))
    if labels.nearest:
        found.append(Decision("data.mask_values", "nearest", reasons.get("mask_values", "")))
    return found


def crop_of(sizes: Counter) -> tuple[int, int]:
    """Height and width of the training crops: those of most images, at most `_CROP`.

    >>> crop_of(Counter({(360, 480): 9, (1000, 2000): 1}))
    (360, 480)
    """
    images = list(sizes.elements())
    return tuple(min(_CROP, max(8, int(statistics.median_low(size[axis] for size in images)))) for axis in (0, 1))


def _of_sizes(summary: Summary, splits: Splits) -> list[Decision]:
    crop = crop_of(summary.sizes)
    (h, w), _ = summary.sizes.most_common(1)[0]
    number = len(summary.sizes)
    sizes = f"{number} sizes, most often {w}x{h}" if number > 1 else f"all images are {w}x{h}"
    reason = f"{sizes}; crops of training are at most {_CROP}x{_CROP}"
    found = [Decision("data.crop", crop, reason)]
    if len(summary.sizes) > 8:
        reason = f"{len(summary.sizes)} sizes, each of which would be compiled for"
        found.append(Decision("eval.size_multiple", 64, reason))
    return found


def batch_of(crop: tuple[int, int], pairs: int, memory: float) -> tuple[int, str]:
    """The size of a batch of crops (h, w) for so many bytes of memory and training pairs, and why.

    >>> batch_of((512, 512), 100, 8e9)
    (4, '4 crops of 512x512 in 8.0 GB of memory: halve it for less')
    >>> batch_of((512, 512), 100, 1e9)[0], batch_of((512, 512), 100, 24e9)[0], batch_of((512, 512), 9, 24e9)[0]
    (2, 16, 8)
    """
    memory = memory if math.isfinite(memory) else 8e9
    fitting = [n for n in _BATCHES if n * math.prod(crop) * _BYTES <= memory] or [_BATCHES[-1]]
    batch = next((n for n in fitting if n <= pairs), fitting[-1])
    return batch, f"{batch} crops of {crop[1]}x{crop[0]} in {memory / 1e9:.1f} GB of memory: halve it for less"


def _of_training(summary: Summary, splits: Splits, labels: Labels) -> list[Decision]:
    crop, pairs = crop_of(summary.sizes), summary.pairs[splits.train]
    batch, why = batch_of(crop, pairs, limits.host_bytes())
    steps = _rounded(min(max(_EPOCHS * pairs // batch, _STEPS[0]), _STEPS[1]))
    found = [
        Decision("train.batch_size", batch, why),
        Decision("train.steps", steps, f"{steps * batch / max(pairs, 1):.0f} passes over {pairs} training pairs"),
        Decision("train.eval_every", max(1, steps // 8), "eight evaluations"),
        Decision("eval.batch_size", batch, "as many as in training"),
    ]
    if spread := _spread(summary, splits, labels):
        if spread > _RARE:
            reason = f"weights by frequency would differ by a factor of {spread:.0f}: their square roots are taken"
            found.insert(0, Decision("loss.class_weight_power", 0.5, reason))
        else:
            reason = f"weights by frequency differ by a factor of {spread:.1f}"
            found.insert(0, Decision("loss.class_weight_power", 1.0, reason))
    return found


def _spread(summary: Summary, splits: Splits, labels: Labels) -> float:
    """The largest median-frequency weight over the smallest; 0 where the classes were not counted."""
    values = (summary.colours if labels.coloured else summary.values).get(splits.train)
    if not values or labels.nearest:
        return 0.0
    pixels, shared = np.zeros(len(labels.names)), np.zeros(len(labels.names))
    for raw, train in labels.table.items():
        if train != IGNORE_LABEL:
            pixels[train] += values.pixels[raw]
            shared[train] += values.shared[raw]
    if not pixels.all():
        return 0.0
    frequency = pixels / shared
    return float(frequency.max() / frequency.min())


def _of_sampling(summary: Summary, splits: Splits, labels: Labels) -> list[Decision]:
    """Rare classes are drawn more often, and images that show nothing but the first class less, where most do."""
    values = (summary.colours if labels.coloured else summary.values).get(splits.train)
    if not values or labels.nearest:
        return []
    masks: Counter[int] = Counter()
    for raw, train in labels.table.items():
        # An image may show several values of one class.
        masks[train] = max(masks[train], values.masks[raw])
    pairs = summary.pairs[splits.train]
    rare = {labels.names[k]: n / pairs for k, n in masks.items() if k != IGNORE_LABEL and 0 < n < _RARELY * pairs}
    found = []
    if rare and pairs >= _LEAST_PAIRS:
        words = ", ".join(f"{name} ({share:.1%})" for name, share in sorted(rare.items(), key=lambda item: item[1])[:6])
        reason = f"classes that less than a tenth of the images show are drawn more often: {words}"
        found.append(Decision("data.sampling.power", 0.5, reason))
    most = max((n for k, n in masks.items() if k not in (0, IGNORE_LABEL)), default=pairs)
    if len(labels.names) == 2 and most < _RARELY * 5 * pairs:
        weight = max(0.25, round(4 * most / (pairs - most)) / 4)
        reason = f"{1 - most / pairs:.0%} of the images show {labels.names[0]!r} alone: they are drawn less often"
        found.append(Decision("data.sampling.empty", weight, reason))
    pixels: Counter[int] = Counter()
    for raw, train in labels.table.items():
        pixels[train] += values.pixels[raw]
    share = 1 - pixels[0] / max(1, pixels.total() - pixels[IGNORE_LABEL])
    (h, w), _ = summary.sizes.most_common(1)[0]
    if share < _SPARSE and 2 * math.prod(crop_of(summary.sizes)) < h * w:
        reason = f"{share:.2%} of the pixels are not {labels.names[0]!r}, and crops are parts: half of them look for it"
        found.append(Decision("data.foreground.probability", 0.5, reason))
    return found


def _rounded(steps: int) -> int:
    return math.ceil(steps / 100) * 100
