"""How often each training image is drawn: rare classes more often, images without foreground less."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from attnseg_jax.data.class_masks import pixels_of_classes
from attnseg_jax.data.reading import in_threads
from attnseg_jax.data.sources import Source
from attnseg_jax.data.windows import in_bands
from attnseg_jax.errors import UserError

# Times that a usual image is there in an epoch, so that others can be there by a quarter more often or less.
_UNIT = 4


def is_used(options: Any) -> bool:
    """Whether a `config.data.sampling` asks for anything but every image once."""
    return options.power > 0 or options.empty != 1


def repeat_factors(
    present: Bool[np.ndarray, "n k"], options: Any, foreground: Bool[np.ndarray, "n"] | None = None
) -> Float[np.ndarray, "n"]:
    """How often each image is drawn for once of a usual one.

    A class that a share f of the images show has the factor max(1, (threshold / f) ** power), an image that of its
    rarest class (Gupta et al. 2019, arXiv 1908.03195, where the power is 0.5). An image that shows the first class
    alone, or none, has `empty`.

    Args:
      present: which image shows which class.
      options: `config.data.sampling`.
      foreground: which image shows more than background; by default another class than the first.
    """
    foreground = present[:, 1:].any(1) if foreground is None else foreground
    share = present.mean(0)
    with np.errstate(divide="ignore"):
        of_class = np.maximum(1, (options.threshold / share) ** options.power)
    factors = np.where(present, of_class, 1).max(1)
    return np.where(foreground, factors, options.empty)


def places(source: Source, config: Any) -> Int[np.ndarray, "m"]:
    """Images of an epoch, each as often as it is drawn, by `config.sampling`; it is said what that changes.

    Raises:
      UserError: a mask cannot be read, or nothing is left to draw.
    """
    present = np.zeros((len(source), source.info.num_classes), bool)

    def shown(index: int) -> np.ndarray:
        label, classes = source[index]["label"], present.shape[1]
        return sum(pixels_of_classes(rows, classes) for rows in in_bands(label)) > 0

    for index, found in enumerate(in_threads(shown, range(len(source)), "reading masks for the sampling")):
        if isinstance(found, UserError):
            raise found
        present[index] = found
    # Of classes that may overlap the first is none of the background.
    foreground = present if source.info.multilabel else present[:, 1:]
    times = np.rint(_UNIT * repeat_factors(present, config.sampling, foreground.any(1))).astype(int)
    if not times.any():
        raise UserError(f"config.data.sampling.empty={config.sampling.empty}: no image is left to draw from")
    logging.info("sampling: %s", effect(present, times, source.info.class_names))
    return np.repeat(np.arange(len(source)), times)


def effect(present: Bool[np.ndarray, "n k"], times: Int[np.ndarray, "n"], names: Sequence[str], most: int = 8) -> str:
    """The shares of the drawn images that show each class, before and after, those that change most first.

    >>> effect(np.array([[1, 0], [1, 0], [1, 1]], bool), np.array([4, 4, 8]), ["road", "pole"])
    'of the images drawn 50.0% show pole (33.3% of all)'
    """
    before, after = present.mean(0), times @ present / times.sum()
    order = sorted(range(len(names)), key=lambda k: -abs(after[k] - before[k]))[:most]
    changed = [f"{after[k]:.1%} show {names[k]} ({before[k]:.1%} of all)" for k in order if after[k] != before[k]]
    return f"of the images drawn {', '.join(changed)}" if changed else "every class is drawn as often as before"


class Drawn:
    """A source's samples by the place in an epoch."""

    def __init__(self, source: Source, chosen: Int[np.ndarray, "m"]):
        self._source, self._chosen = source, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self._source[int(self._chosen[place])]
