"""What a source is: random access to decoded pairs of an image and its label."""

from typing import Any, Protocol

from attnseg_jax.data.datasets import DatasetInfo


class Source(Protocol):
    """Random access to one split, from several threads at once; made as `Mine(config.data, split)`.

    `source[i]` is `{'image': uint8 [h, w, 3], 'label': uint8 [h, w] (train ids, 255 ignored), 'id': str}`.  It may hold
    further fields for a model or an objective: arrays [h, w, ...], or of one shape for all samples.
    `source.size(i)` is (h, w), which should not decode any pixels.  Both raise UserError for a bad file.
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
