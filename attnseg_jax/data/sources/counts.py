"""Class counts and image sizes of a whole split, found by reading every pair of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from attnseg_jax.data.class_masks import labelled_pixels, pixels_of_classes
from attnseg_jax.data.reading import in_threads
from attnseg_jax.data.sources.protocol import Source, check_sample, check_size
from attnseg_jax.data.windows import FileArray, in_bands
from attnseg_jax.errors import UserError, UserErrors
from attnseg_jax.ops.labels import IGNORE_LABEL

_CHECKING = "checking the data"
_MOST_LISTED = 20


@dataclass(frozen=True)
class Survey:
    """What a full pass over a split found.

    pixel_counts [k]: pixels of each class.  image_pixel_counts [k]: labelled pixels of all images in which the class
    occurs, in mode 'multilabel' those with a label of it (median frequency balancing divides by them, Eigen and Fergus,
    arXiv 1411.4734).  sizes: (h, w) per image.
    """

    pixel_counts: Int64[np.ndarray, "k"]
    image_pixel_counts: Int64[np.ndarray, "k"]
    sizes: tuple[tuple[int, int], ...]


def survey(
    source: Source, threads: int | None = None, *, on_read: Callable[[int], None] = lambda index: None
) -> Survey:
    """Read every pair of `source` and count its classes, in threads (one per core by default).

    `on_read` is called with the place of each pair, by the thread that has just read it.

    Raises one UserError of the first bad files in the order of the source, `_MOST_LISTED` at most, and one if no pixel
    has a label.
    """
    info = source.info
    k, values = info.num_classes, info.num_values

    def count(index: int) -> tuple[np.ndarray, tuple[int, int]]:
        sample = source[index]
        check_sample(sample, info.channels, multilabel=info.multilabel)
        on_read(index)
        label = sample["label"]
        check_size(source, index, label.shape[:2])
        if isinstance(sample["image"], FileArray):
            # A bad piece is named at once.
            for _ in in_bands(sample["image"]):
                pass
        pixels, labelled = np.zeros(k, np.int64), 0
        for rows in in_bands(label):
            if (wrong := rows[(rows >= values) & (rows != IGNORE_LABEL)]).size:
                raise UserError(
                    f"{sample['id']}: config.data.source gives the label {wrong.min()}, and there are {k} classes: use "
                    f"0 to {values - 1}, or {IGNORE_LABEL} to ignore a pixel"
                )
            pixels += pixels_of_classes(rows, k)
            labelled = labelled + labelled_pixels(rows)
        return np.stack([pixels, (pixels > 0) * labelled]), label.shape[:2]

    counts, sizes, bad = [], [], []
    for found in in_threads(count, range(len(source)), _CHECKING, threads):
        if isinstance(found, UserError):
            bad.append(str(found))
            if len(bad) == _MOST_LISTED:
                break
        else:
            counts.append(found[0])
            sizes.append(found[1])
    if bad:
        if len(bad := [*dict.fromkeys(bad)]) == 1:
            raise UserError(bad[0])
        more = "; there may be more" if len(bad) == _MOST_LISTED else ""
        raise UserErrors(f"{len(bad)} of {len(source)} pairs cannot be used{more}:", bad)
    pixels, labelled = np.array(counts, np.int64).reshape(-1, 2, k).sum(0)
    if not pixels.any():
        raise UserError(
            f"data set {source.info.name!r}: not one pixel of its {len(source)} masks has a class, all are ignored "
            f"({IGNORE_LABEL}){_values(source)}"
        )
    return Survey(pixels, labelled, tuple(sizes))


def check_classes(source: Source, found: Survey) -> None:
    """Raises UserError where a class of a source to train on has no pixel.

    It cannot be learned, and where all but one are ignored the mean IoU of any network would be 1.
    """
    if names := absent_classes(source, found):
        raise UserError(
            f"data set {source.info.name!r}: no pixel of its {len(source)} training masks is {names}{_values(source)}; "
            "a class that no mask shows does not belong in config.data.classes; config.data.check=False trains all "
            "the same"
        )


def absent_classes(source: Source, found: Survey) -> str:
    """The classes without a pixel, in words; "" for none."""
    names = [name for name, pixels in zip(source.info.class_names, found.pixel_counts, strict=True) if not pixels]
    return " or ".join(map(repr, names))


def _values(source: Source) -> str:
    """Which raw values the masks hold, and how to say what they are; "" for a source that does not tell."""
    if not hasattr(source, "raw"):
        return ""
    pixels: Counter[int] = Counter()
    for found in in_threads(lambda index: np.unique_counts(source.raw(index)), range(len(source)), _CHECKING):
        if not isinstance(found, UserError):
            pixels.update(dict(zip(found.values.tolist(), found.counts.tolist())))
    total = sum(pixels.values())
    shown = [f"{value} ({pixels[value] / total:.1%})" for value in sorted(pixels)[:_MOST_LISTED]]
    pairs = tuple((value, train) for train, value in enumerate(sorted(pixels)))
    fitting = len(pairs) == source.info.num_values
    example = f", such as --config.data.ids='{str(pairs).replace(' ', '')}'" if fitting else ""
    return (
        f"; the masks hold the values {', '.join(shown)}{', ...' if len(pixels) > len(shown) else ''}, and "
        f"config.data.ids says which is which class{example}"
    )
