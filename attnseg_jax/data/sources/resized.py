"""A source whose pairs are resized when they are read."""

from typing import Any

from attnseg_jax.data.sources.protocol import Source, Wrapped
from attnseg_jax.data.transforms.fields import map_pixels, scaled_size, whole


class ResizedSource(Wrapped):
    """The pairs of another source, all their pixel fields resized by one factor."""

    # It gives the pairs as they are stored.
    hidden = ("by_window",)

    def __init__(self, source: Source, factor: float):
        super().__init__(source)
        self._factor = factor

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._source[index]
        return map_pixels(sample, whole(sample["image"].shape[:2], self._factor).cut_field)

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of the resized image at `index`."""
        return scaled_size(self._source.size(index), self._factor)
