"""A source whose pairs are resized when they are read."""

from typing import Any

from attnseg_jax.data.sources.protocol import Source
from attnseg_jax.data.transforms.fields import map_pixels, scaled_size, whole


class ResizedSource:
    """The pairs of another source, all their pixel fields resized by one factor."""

    def __init__(self, source: Source, factor: float):
        self.info = source.info
        self._source, self._factor = source, factor

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._source[index]
        return map_pixels(sample, whole(sample["image"].shape[:2], self._factor).cut_field)

    def __getattr__(self, name: str) -> Any:
        # What a source may have beside what it must, of whole pictures. A private name is asked for before there is a
        # source.
        if name.startswith("_") or name == "by_window":
            raise AttributeError(name)
        return getattr(self._source, name)

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of the resized image at `index`."""
        return scaled_size(self._source.size(index), self._factor)
