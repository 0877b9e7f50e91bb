"""What a source is: random access to decoded pairs of an image and its label."""

from typing import Any, ClassVar, Protocol

import numpy as np

from attnseg_jax.data.datasets import DatasetInfo
from attnseg_jax.data.windows import FileArray
from attnseg_jax.errors import UserError
from attnseg_jax.parts import check_takes


class Source(Protocol):
    """Random access to one split, from several threads at once; made as `Mine(config.data, split)`.

    `source[i]` is `{'image': uint8 [h, w, 3], 'label': uint8 [h, w] (train ids, 255 ignored), 'id': str}`; with
    `config.data.channels` the image has so many, and may be float32; with `config.data.mode='multilabel'` the label is
    uint8 [h, w, k], 1 where a class is there, 0 where it is not, 255 ignored.  It may hold further fields for a model
    or an objective: arrays [h, w, ...], or of one shape for all samples.
    `source.size(i)` is (h, w), which should not decode any pixels.  Both raise UserError for a bad file.

    A source may also have `raw(i)`, the mask before the table of ids, which messages then quote, and `files()`, names
    and paths of its files, by which a run notices that they changed; of files of a tool's own `prepared = True` says
    that their sizes tell enough.  `by_window(i)` may give `source[i]` with a `windows.FileArray` for what is very large
    and need not be read whole.
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


def check_sample(sample: Any, channels: int = 0, *, multilabel: bool = False) -> None:
    """Refuses what a source gave and is no decoded pair of an image of `config.data.channels` and its label.

    With `multilabel` the label has an axis for the classes.
    """
    if not isinstance(sample, dict) or not {"image", "label", "id"} <= sample.keys():
        found = sorted(sample) if isinstance(sample, dict) else type(sample).__name__
        raise UserError(f"config.data.source gives {found}; a sample is a dict with 'image', 'label' and 'id'")
    given = (sample[name] for name in ("image", "label"))
    image, label = (array if isinstance(array, FileArray) else np.asarray(array) for array in given)
    kinds = (np.uint8, np.float32) if channels else (np.uint8,)
    fits = image.dtype in kinds and label.dtype == np.uint8 and label.ndim == 2 + multilabel
    if not fits or image.shape != (*label.shape[:2], channels or 3):
        raise UserError(
            f"config.data.source gives an image {image.dtype} {image.shape} and a label {label.dtype} {label.shape}; "
            f"it must give {' or '.join(kind.__name__ for kind in kinds)} (h, w, {channels or 3}) and uint8 "
            f"{'(h, w, k)' if multilabel else '(h, w)'}"
        )


class Wrapped:
    """A source that gives the samples of another in its own way, and has what that may have beside.

    Attributes:
      info: the other's.
      hidden: names of what the other may have and this one has not.
    """

    hidden: ClassVar[tuple[str, ...]] = ()

    def __init__(self, source: Source):
        self.info = source.info
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        # A private name is asked for before there is a source.
        if name.startswith("_") or name in self.hidden:
            raise AttributeError(name)
        return getattr(self._source, name)


class ByWindow(Wrapped):
    """A source whose samples are those of the `by_window` of another, where that has one."""

    def __init__(self, source: Source):
        super().__init__(source)
        self._read = getattr(source, "by_window", source.__getitem__)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._read(index)


def check_source(source: Any, named: str, split: str) -> None:
    """Refuses what is no source, by what it says of itself and of its first sample.

    Args:
      source: as it was made.
      named: its `key=name`, for messages.
      split: of the data.
    """
    missing = [name for name in ("info", "size", "__len__", "__getitem__") if not hasattr(source, name)]
    if missing:
        raise UserError(
            f"{named} has no {', '.join(missing)}: see attnseg_jax.data.sources.Source for what a source needs"
        )
    info = source.info
    if not isinstance(info, DatasetInfo):
        raise UserError(
            f"{named}: its info is {type(info).__name__}, not a DatasetInfo: datasets.info(config.data) makes one"
        )
    palette = np.asarray(info.palette)
    if palette is not info.palette or (palette.dtype, palette.shape) != (np.uint8, (info.num_classes, 3)):
        raise UserError(
            f"{named}: info.palette must be an array uint8 ({info.num_classes}, 3), a colour for each class"
        )
    check_takes(source.size, f"{named}.size", 0)
    try:
        length = len(source)
    except (TypeError, ValueError) as error:
        raise UserError(f"{named}: its length cannot be taken: {error}") from error
    if length < 1:
        raise UserError(f"{named}: its split {split!r} is empty")
    if hasattr(source, "files") and not isinstance(source.files(), dict):
        raise UserError(f"{named}: files() must return a dict of names and paths")
    sample = source[0]
    check_sample(sample, info.channels, multilabel=info.multilabel)
    check_size(source, 0, sample["label"].shape[:2])


def check_size(source: Source, index: int, shape: tuple[int, int]) -> None:
    """Refuses a source whose `size` is not the shape of the sample."""
    found = source.size(index)
    if not isinstance(found, tuple | list) or tuple(found) != shape:
        raise UserError(f"config.data.source: size({index}) is {found}, and the image there is (h, w) = {shape}")
