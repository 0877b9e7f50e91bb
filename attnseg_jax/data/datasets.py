"""What is known about each data set: class names, colours and the table from raw mask ids to train ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from attnseg_jax.data.known_sets import DATASETS, UNKNOWN, Dataset
from attnseg_jax.data.palettes import Colour, default_palette
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.files import expanded
from attnseg_jax.ops.labels import IGNORE_LABEL

MAX_CLASSES = 254
"""Train ids live in a uint8 beside 255 (ignored) and 254 (kept free to mark unknown raw values while decoding)."""

HIGHEST_RAW = (1 << 16) - 1
"""Raw ids of masks are at most so high."""

MODES = ("multiclass", "binary", "multilabel")
"""What may be at a pixel (`config.data.mode`): one of the classes, one of two, or any of them."""

EMBEDDED = "context"
"""Name of the data set that the package draws itself."""


def outputs(mode: str, num_classes: int) -> int:
    """Channels of a model's logits: one for each class, or in mode 'binary' a single one for the second of two."""
    return 1 if mode == "binary" else num_classes


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """What the rest of the project knows of a data set: its name, its k classes and their colours (uint8 [k, 3]).

    Its images have `channels`, 0 for 8-bit RGB, of which pictures show those of `show`; `mode` is one of `MODES`.
    """

    name: str
    class_names: tuple[str, ...]
    palette: np.ndarray
    channels: int = 0
    show: tuple[int, ...] = ()
    mode: str = MODES[0]

    @property
    def num_classes(self) -> int:
        """The number k of classes."""
        return len(self.class_names)

    @property
    def multilabel(self) -> bool:
        """Whether labels are `[h, w, k]`: of each class whether it is there, 1 or 0, whatever the others are."""
        return self.mode == "multilabel"

    @property
    def num_values(self) -> int:
        """Values of a label that is not ignored are below this."""
        return 2 if self.multilabel else self.num_classes

    @property
    def outputs(self) -> int:
        """See `outputs`."""
        return outputs(self.mode, self.num_classes)

    def shown(self, image: Shaped[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
        """An image as a picture: of other than 8-bit RGB three channels or one, stretched between their extremes."""
        if not self.channels:
            return image
        chosen = self.show or ((0, 1, 2) if self.channels >= 3 else (0,))
        picture = image[..., [*chosen]].astype(np.float32)
        # Single pixels may be far off.
        low, high = np.percentile(picture.reshape(-1, len(chosen)), (_DARKEST, 100 - _DARKEST), axis=0)
        picture = (picture - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
        return np.broadcast_to((255 * picture.clip(0, 1)).round(), (*image.shape[:2], 3)).astype(np.uint8)


_DARKEST = 1


def from_config(config: Any) -> Dataset:
    """The data set a `config.data` describes: its entry in `DATASETS`, changed by the keys that the config sets.

    In mode 'binary' a single class gets a background before it; in mode 'multilabel' `ids` are of the values of a
    class's own mask, 0 for where it is not there and 1 for where it is.

    `classes`, `palette` and `ids` replace the entry's, and `ignore` adds to `ids`.  Without an entry (`name=''`)
    `classes` is needed; `ids` is then the identity and the palette `default_palette`, unless given.  Raises UserError
    for an unknown name and for lengths that do not fit.
    """
    if config.name and config.name not in DATASETS:
        raise UserError(
            f"config.data.name={config.name!r} is not a known data set ({nearest(config.name, DATASETS)}); "
            "for your own data leave it empty and give config.data.classes"
        )
    entry = DATASETS.get(config.name)
    names = tuple(config.classes) or (entry.class_names if entry else ())
    given_palette = _colours("palette", config.palette)
    if config.mode == "binary" and len(names) == 1:
        names, given_palette = (BACKGROUND, *names), given_palette and (default_palette(1)[0], *given_palette)
    if not names:
        raise UserError(
            "config.data.classes is empty: name the classes in the order of their ids, such as "
            f"--config.data.classes=background,cell, one a line in {CLASSES_FILE} of config.data.dir, or by a known "
            "config.data.name"
        )
    if len(names) > MAX_CLASSES:
        raise UserError(f"config.data.classes has {len(names)} names; at most {MAX_CLASSES} classes are possible")
    _check_mode(config, names)
    values = 2 if config.mode == "multilabel" else len(names)
    same = entry is not None and len(names) == len(entry.class_names)
    # The first colour is that of the background, which classes that may overlap leave to pixels without any.
    ground = int(config.mode == "multilabel")
    palette = given_palette or (entry.palette if same else default_palette(ground + len(names))[ground:])
    if len(palette) != len(names):
        raise UserError(
            f"config.data.palette has {len(palette)} colours for {len(names)} classes; give one for each class"
        )
    of_entry = entry is not None and config.mode != "multilabel"
    given = dict(_pairs(config.ids))
    pairs = given or dict(enumerate(entry.ids) if of_entry else ((i, i) for i in range(values)))
    for raw, train in pairs.items():
        if not 0 <= raw <= HIGHEST_RAW:
            raise UserError(f"config.data.ids maps raw id {raw}; raw ids are whole numbers from 0 to {HIGHEST_RAW}")
        if train != IGNORE_LABEL and not 0 <= train < values:
            what = f"there are {len(names)} classes; use 0 to {values - 1}"
            if config.mode == "multilabel":
                what = "the mask of a class says whether it is there: use 1, or 0"
            raise UserError(f"config.data.ids maps raw id {raw} to {train}, but {what}, or {IGNORE_LABEL} to ignore it")
    pairs |= _ignored(config.ignore, given or (pairs if of_entry else {}))
    # A long table that says nothing of 255 ignores it, as a short one does.
    ids = {IGNORE_LABEL: IGNORE_LABEL, **pairs} if max(pairs) > IGNORE_LABEL else pairs
    return Dataset(
        class_names=names,
        palette=palette,
        ids=tuple(ids.get(raw, UNKNOWN) for raw in range(max(ids) + 1)),
        tfds_name=config.tfds_name or (entry.tfds_name if entry else ""),
        image_key=entry.image_key if entry else "image",
        label_key=entry.label_key if entry else "label",
        colors=entry.colors if entry else (),
    )


BACKGROUND = "background"
"""Name of the first class where the second is the only one that is named."""


def _check_mode(config: Any, names: Sequence[str]) -> None:
    mode, count = config.mode, len(names)
    if mode not in MODES:
        raise UserError(f"config.data.mode={mode!r} is none of {', '.join(MODES)}: {nearest(mode, MODES)}")
    if mode == "binary" and len({*names}) != 2:
        raise UserError(
            f"config.data.mode='binary' tells one class from the background, and there are {count} classes "
            f"({', '.join(names)}): name two, or that one; 'multiclass' has one of many at a pixel, 'multilabel' any"
        )
    if mode != "binary" and count < 2:
        raise UserError(
            f"config.data.classes={tuple(names)} is one class, and config.data.mode={mode!r} needs at least two: "
            "config.data.mode='binary' tells one from the background, by a single output"
        )
    if mode != "multilabel":
        return
    if config.colors or config.labels:
        key = "colors" if config.colors else "labels"
        raise UserError(
            f"config.data.{key} is of masks with one class at a pixel, and config.data.mode='multilabel' has a mask "
            "for each class: leave it out"
        )
    if bad := next((name for name in names if name[:1] in ("", ".") or {*name} & {*"/\\*{}"}), None):
        raise UserError(
            f"config.data.classes: {bad!r} names no file, as needed by config.data.mode='multilabel': rename it"
        )


def _pairs(ids: Sequence[int] | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """`config.data.ids` as pairs of a raw id and its train id.

    >>> _pairs((255, 0)), _pairs(((0, 0), (255, 1)))
    ([(0, 255), (1, 0)], [(0, 0), (255, 1)])
    """
    return [tuple(entry) if isinstance(entry, Sequence) else (raw, int(entry)) for raw, entry in enumerate(ids)]


def _ignored(ignore: Sequence[int], given: Mapping[int, int]) -> dict[int, int]:
    """What `config.data.ignore` adds to a table; of 255, which every table ignores, only that it may not occur.

    >>> _ignored((255, 7), {}), _ignored((), {}), _ignored((), {255: 1})
    ({7: 255}, {255: 254}, {})
    """
    found = {raw: IGNORE_LABEL for raw in ignore if raw not in given and raw != IGNORE_LABEL}
    return found if IGNORE_LABEL in {*ignore, *given} else found | {IGNORE_LABEL: UNKNOWN}


CLASSES_FILE = "classes.txt"
"""Beside the folders of a data set: the names of its classes, one a line, in the order of their ids."""


def of_folder(config: Any) -> None:
    """Changes a `config.data` whose pictures are a folder's to be about that folder.

    They are not the embedded data set, whatever the default says, and `CLASSES_FILE` names their classes unless the
    config does.  Raises UserError for a file that cannot be read.
    """
    if config.source != "folder":
        return
    if config.name == EMBEDDED:
        config.name = ""
    path = expanded(config.dir) / CLASSES_FILE
    if config.name or config.classes or not config.dir or not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): write one class name a line, or remove it") from None
    config.classes = tuple(line.strip() for line in lines if line.strip())


def info(config: Any) -> DatasetInfo:
    """The `DatasetInfo` of a `config.data`.  Raises UserError as `from_config` does."""
    dataset = from_config(config)
    palette = np.array(dataset.palette, np.uint8)
    palette.setflags(write=False)
    name = config.name or dataset.tfds_name or "data"
    return DatasetInfo(name, dataset.class_names, palette, config.channels, config.show, config.mode)


def train_ids(config: Any, key: str, names: Sequence[str]) -> list[int]:
    """The train ids of classes by their names.  Raises UserError for one that is no class, naming `config.data.key`."""
    known = from_config(config).class_names
    for name in names:
        if name not in known:
            raise UserError(f"config.data.{key}={tuple(names)}: {name!r} is no class ({nearest(name, known)})")
    return [known.index(name) for name in names]


def _colours(key: str, colours: Sequence[Sequence[int]]) -> tuple[Colour, ...]:
    for colour in colours:
        if len(colour) != 3 or not all(0 <= int(v) <= 255 for v in colour):
            raise UserError(f"config.data.{key} holds {tuple(colour)}; a colour is (red, green, blue), each 0 to 255")
    return tuple(tuple(int(v) for v in colour) for colour in colours)


def raw_colours(config: Any) -> tuple[Colour, ...]:
    """`config.data.colors`: position = raw id, value = its colour in RGB masks.  Raises UserError if malformed."""
    entry = DATASETS.get(config.name)
    colours = _colours("colors", config.colors) or (entry.colors if entry and not config.classes else ())
    if len(set(colours)) != len(colours):
        twice = next(c for c in colours if colours.count(c) > 1)
        raise UserError(f"config.data.colors holds {twice} twice; every raw id needs a colour of its own")
    return colours
