"""Sheets of predictions beside the truth, and label maps as small files that any viewer shows."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from attnseg_jax.evaluation.boundary_iou import count_image
from attnseg_jax.evaluation.counts import by_class, iou
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.metrics import mean_of_known
from attnseg_jax.plots.drawing import brightened, write_png
from attnseg_jax.plots.sheet import NOTHING, Swatch, coloured, compose, flat, occurring, stripes

ImageArray = UInt8[np.ndarray, "_ _ 3"]
LabelArray = Integer[np.ndarray, "_ _ *k"]
"""Classes [h, w], or of each class whether it is there [h, w, k]."""

FALSE_POSITIVE, FALSE_NEGATIVE = (0, 190, 255), (255, 32, 78)
"""Colours of wrong pixels in the column of errors."""
_VOID_ERROR = 200  # lighter than any dimmed pixel
_SMALL, _LARGE = 240, 640  # width in pixels below which a panel is upsampled, above which it is reduced
_LOWEST = 3  # classes that a caption names


def prediction_picture(
    images: Sequence[ImageArray],
    labels: Sequence[LabelArray],
    predictions: Sequence[LabelArray] | Mapping[str, Sequence[LabelArray]],
    class_names: Sequence[str],
    palette: UInt8[np.ndarray, "k 3"],
    *,
    titles: Sequence[str] | None = None,
    errors: bool = True,
    heading: str = "",
    left_out: Sequence[int] = (),
) -> Image.Image:
    """A row per sample with the columns input, truth, prediction and errors, and a legend below.

    `images` uint8 [h, w, 3], `labels` and `predictions` integers [h, w] or [h, w, k], sizes free per row; `palette`
    uint8 [k, 3].
    A mapping of predictions draws a column for each of its names ("without attention", "with attention"). Where
    `titles` are given, they begin the captions of the rows, which tell the scores of their images; `heading` stands
    above all. Classes that are `left_out` count in no mean. Small images are upsampled and large ones reduced by a
    whole factor, dark ones are brightened, which their captions say. Void (255) is striped. The legend names the
    classes that occur.

    In the errors, wrong pixels are vivid on the dimmed gray input and void is plain gray. A wrong pixel is a false
    negative of one class and a false positive of another; its colour tells which of both it is of the class with fewer
    pixels in these `labels` (of two classes: the second). Of classes that may overlap a pixel is a false negative where
    any is missed, else a false positive where any is invented.

    Raises ValueError if the rows of the columns differ in number or a row's arrays in size.
    """
    if not isinstance(predictions, Mapping):
        predictions = {"prediction": predictions}
    rows = list(zip(images, labels, *predictions.values(), strict=True))
    for row, (image, *maps) in enumerate(rows):
        if any(m.shape[:2] != image.shape[:2] for m in maps):
            raise ValueError(f"row {row}: image {image.shape[:2]} with maps {[m.shape for m in maps]}")
    headers = ["input", "truth"]
    for name in predictions:
        headers += [name, "errors" if len(predictions) == 1 else f"errors {name}"] if errors else [name]
    overlap = any(label.ndim == 3 for label in labels)
    rarity = _rarity(labels, 2 if overlap else len(class_names)) if errors else None
    panels, captions = [], []
    for i, (image, truth, *guesses) in enumerate(rows):
        shown, factor = brightened(image)
        panels.append(_row_panels(shown, truth, guesses, palette, rarity))
        if titles is not None:
            scores = _scores(truth, dict(zip(predictions, guesses)), class_names, left_out)
            bright = f"; drawn {factor:.3g} times as bright" if factor > 1 else ""
            captions.append(f"{titles[i]}: {scores}{bright}")
    legend = [_legend([m for _, *maps in rows for m in maps], class_names, palette)]
    if errors:
        of = f": {class_names[1]}" if len(class_names) == 2 else " of the rarer class"
        of = " of any class" if overlap else of
        kinds = {"false positive": FALSE_POSITIVE, "false negative": FALSE_NEGATIVE}
        legend.append([(f"errors: {kind}{of}", flat(color)) for kind, color in kinds.items()])
    return compose(panels, headers, captions or None, legend, heading)


def comparison_sheet(
    labels: Sequence[LabelArray],
    predictions: Mapping[str, Sequence[LabelArray]],
    class_names: Sequence[str],
    palette: UInt8[np.ndarray, "k 3"],
    path: str | os.PathLike,
    *,
    titles: Sequence[str],
    images: Sequence[ImageArray] | None = None,
) -> None:
    """Writes one PNG: a column per sample, in it the input where `images` are given, the truth, and each prediction.

    `labels` and the predictions of each name are integers [h, w], sizes free per sample; `titles` stand above the
    columns. Scale, colours and legend are those of `prediction_picture`.
    """
    if images is None:
        shown = [np.zeros((*label.shape[:2], 3), np.uint8) for label in labels]
    else:
        shown, factors = zip(*map(brightened, images))
        titles = [f"{title} ({f:.3g} x as bright)" if f > 1 else title for title, f in zip(titles, factors)]
    samples = zip(shown, labels, *predictions.values(), strict=True)
    columns = [_row_panels(image, truth, guesses, palette, None) for image, truth, *guesses in samples]
    rows = dict(zip(["input", "truth", *predictions], zip(*columns)))
    if images is None:
        del rows["input"]
    legend = _legend([*labels, *(m for maps in predictions.values() for m in maps)], class_names, palette)
    write_png(path, compose(list(rows.values()), titles, list(rows), [legend]))


def with_legend(
    picture: ImageArray, mask: LabelArray, class_names: Sequence[str], palette: UInt8[np.ndarray, "k 3"]
) -> Image.Image:
    """A picture, upsampled where it is small, with the classes that occur in its `mask` below it."""
    shown = _upsample(picture, _factors(picture.shape[1])[0])
    return compose([[shown]], [""], None, [_legend([mask], class_names, palette)])


def write_label_map(labels: LabelArray, palette: UInt8[np.ndarray, "k 3"], path: str | os.PathLike) -> None:
    """Writes integers [h, w] below 256 as the indices of one palette PNG, which shows them in their colours."""
    picture = Image.fromarray(labels.astype(np.uint8)).convert("P")
    picture.putpalette(palette.tobytes())
    write_png(path, picture, optimize=True)


def palette_of_one(colour: UInt8[np.ndarray, "3"]) -> UInt8[np.ndarray, "2 3"]:
    """The colours of a map that says where a class is, 1, and where it is not, 0."""
    return np.array([NOTHING, colour], np.uint8)


def write_label_maps(
    labels: Integer[np.ndarray, "h w k"], palette: UInt8[np.ndarray, "k 3"], paths: Sequence[str | os.PathLike]
) -> None:
    """Writes labels of each class, 0 and 1, as a palette PNG of its own."""
    for k, path in enumerate(paths):
        write_label_map(labels[..., k], palette_of_one(palette[k]), path)


def laid_over(picture: ImageArray, mask: LabelArray, palette: UInt8[np.ndarray, "k 3"], opacity: float) -> ImageArray:
    """A picture with the colours of classes over it; of classes that may overlap where any is there."""
    colours = palette[mask] if mask.ndim == 2 else coloured(mask, palette)
    found = np.round(picture * np.float32(1 - opacity) + colours.astype(np.float32) * np.float32(opacity))
    return np.where((mask == 1).any(-1, keepdims=True) if mask.ndim == 3 else True, found, picture).astype(np.uint8)


def read_label_map(path: str | os.PathLike) -> LabelArray:
    """The integers [h, w] that `write_label_map` wrote."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def _scores(
    truth: LabelArray, guesses: Mapping[str, LabelArray], class_names: Sequence[str], left_out: Sequence[int]
) -> str:
    """The scores of an image in words; of a single prediction with the classes of the lowest IoU."""
    counts = {name: by_class(count_image, truth, guess, len(class_names))[0] for name, guess in guesses.items()}
    found = {name: iou(count) for name, count in counts.items()}
    for values in found.values():
        values[[*left_out]] = np.nan
    means = {name: _mean(values) for name, values in found.items()}
    if len(means) > 1:
        return "mIoU " + ", ".join(f"{name} {mean}" for name, mean in means.items())
    ((name, values),) = found.items()
    known = [(value, class_names[k]) for k, value in enumerate(values) if not np.isnan(value)]
    lowest = ", ".join(f"{other} {value:.2f}" for value, other in sorted(known)[:_LOWEST])
    words = "IoU" if len(known) <= _LOWEST else "lowest"
    return f"mIoU {means[name]} of {len(known)} classes ({words}: {lowest})" if known else "nothing to score"


def _mean(values: np.ndarray) -> str:
    mean = mean_of_known(values)
    return "absent" if np.isnan(mean) else f"{mean:.3f}"


def _row_panels(image, truth, guesses, palette, rarity) -> list[np.ndarray]:
    """The panels of a row; those of errors where a `rarity` is given."""
    up, down = _factors(image.shape[1])
    small = np.asarray(Image.fromarray(image).reduce(down)) if down > 1 else image
    truth, *guesses = (m[down // 2 :: down, down // 2 :: down] for m in (truth, *guesses))
    # `reduce` keeps a partial last cell, the strided maps may not.
    small = _upsample(small[: truth.shape[0], : truth.shape[1]], up)
    truth, *guesses = (_upsample(m, up) for m in (truth, *guesses))
    panels = [small, coloured(truth, palette)]
    for guess in guesses:
        panels.append(coloured(guess, palette))
        if rarity is not None:
            panels.append(_errors(small, truth, guess, rarity))
    return panels


def _factors(width: int) -> tuple[int, int]:
    return (max(1, -(-_SMALL // width)), 1) if width < _SMALL else (1, -(-width // _LARGE))


def _upsample(array: np.ndarray, factor: int) -> np.ndarray:
    return array.repeat(factor, 0).repeat(factor, 1)


def _rarity(labels: Sequence[LabelArray], num_classes: int) -> np.ndarray:
    """The place of every class when the most frequent one comes first; of two classes, their order."""
    if num_classes == 2:
        return np.arange(2)
    counts = sum(np.bincount(label.ravel(), minlength=IGNORE_LABEL + 1)[:num_classes] for label in labels)
    return np.argsort(np.argsort(-counts, kind="stable"))


def _errors(image: np.ndarray, truth: np.ndarray, guess: np.ndarray, rarity: np.ndarray) -> np.ndarray:
    panel = np.asarray(Image.fromarray(image).convert("L"))[..., None] // 2 + np.full(3, 24, np.uint8)
    void = truth == IGNORE_LABEL
    if truth.ndim == 3:
        panel[(~void & (guess > truth)).any(-1)] = FALSE_POSITIVE
        panel[(~void & (guess < truth)).any(-1)] = FALSE_NEGATIVE
        panel[void.all(-1)] = _VOID_ERROR
        return panel
    of_truth, of_guess = rarity[np.where(void, 0, truth)], rarity[np.where(void, 0, guess)]
    panel[~void & (of_truth > of_guess)] = FALSE_NEGATIVE
    panel[~void & (of_truth < of_guess)] = FALSE_POSITIVE
    panel[void] = _VOID_ERROR
    return panel


def _legend(maps, class_names, palette) -> list[Swatch]:
    present = sorted(set().union(*(occurring(m).tolist() for m in maps)))
    entries = [(class_names[i], flat(palette[i])) for i in present if i != IGNORE_LABEL]
    return entries + ([("void", stripes(16, 16))] if IGNORE_LABEL in present else [])
