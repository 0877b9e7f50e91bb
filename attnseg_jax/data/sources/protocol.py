"""What a source is: random access to decoded pairs of an image and its label."""

from typing import Any, Protocol

import numpy as np

from attnseg_jax.data.datasets import DatasetInfo
from attnseg_jax.errors import UserError


class Source(Protocol):
    """Random access to one split, from several threads at once; made as `Mine(config.data, split)`.

    `source[i]` is `{'image': uint8 [h, w, 3], 'label': uint8 [h, w] (train ids, 255 ignored), 'id': str}`.  It may hold
    further fields for a model or an objective: arrays [h, w, ...], or of one shape for all samples.
    `source.size(i)` is (h, w), which should not decode any pixels.  Both raise UserError for a bad file.

    A source may also have `raw(i)`, the mask before the table of ids, which messages then quote, and `files()`, names
    and paths of its files, by which a run notices that they changed; of files of a tool's own `prepared = True` says
    that their sizes tell enough.
    """

    info: DatasetInfo
    """Names and colours of the classes; `datasets.info(config.data)` makes it from the config."""

    def __len__(self) -> int:
        """The number of pairs."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The decoded pair at `index`."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of the image at `index`."""
        ...


def check_sample(sample: Any) -> None:
    """Refuses what a source gave and is no decoded pair of an image and its label."""
    if not isinstance(sample, dict) or not {"image", "label"} <= sample.keys():
        found = sorted(sample) if isinstance(sample, dict) else type(sample).__name__
        raise UserError(f"config.data.source gives {found}; a sample is a dict with 'image', 'label' and 'id'")
    image, label = (np.asarray(sample[name]) for name in ("image", "label"))
    if image.dtype != np.uint8 or label.dtype != np.uint8 or image.shape != (*label.shape, 3) or label.ndim != 2:
        raise UserError(
            f"config.data.source gives an image {image.dtype} {image.shape} and a label {label.dtype} {label.shape}; "
            "it must give uint8 (h, w, 3) and uint8 (h, w)"
        )
