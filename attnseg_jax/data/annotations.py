"""Masks drawn from annotation files: labelme's JSON, and COCO's, of polygons and of panoptic pictures.

A raw id is the place of a label in a list of names. What no shape covers is 'background' where the list has that name,
otherwise ignored. Of shapes that overlap the later one is on top in labelme, the smaller one in COCO.
"""

import base64
import functools
import io
import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from attnseg_jax.data import decode
from attnseg_jax.data.shapes import polygon, run_lengths
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.ops.labels import IGNORE_LABEL

SUFFIX = ".json"
GROUND = ("background", "_background_")
"""Names of what no shape covers."""

# What a malformed file makes the readers below raise.
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError)
_CIRCLE = 64
# Files of COCO that were read, by path and time of change.
_kept: dict[tuple[Path, int], "CocoFile"] = {}
_lock, _MOST_KEPT = threading.Lock(), 4


@dataclass(frozen=True)
class CocoFile:
    """A JSON file of COCO.

    Attributes:
      categories: names, in the order of the file.
      images: file name -> (h, w) and its annotations, as in the file.
      names: category id -> name.
    """

    categories: tuple[str, ...]
    images: dict[str, tuple[tuple[int, int], list[dict[str, Any]]]]
    names: dict[int, str]


def labels_of(path: Path) -> tuple[str, ...]:
    """The labels that a file has, in its order.  Raises UserError for one that cannot be read."""
    with _naming(path):
        found = _content(path)
        if isinstance(found, CocoFile):
            return found.categories
        return tuple(dict.fromkeys(str(shape["label"]) for shape in found["shapes"]))


def draw(path: Path, image: Path, labels: Sequence[str]) -> UInt8[np.ndarray, "h w"]:
    """The raw ids of an image by an annotation file.

    Args:
      path: of the JSON file.
      image: whose annotations are meant, of a file of many.
      labels: names, in the order of the raw ids.

    Raises:
      UserError: the file is malformed, or has a label that is none of these.
    """
    if len(labels) >= IGNORE_LABEL:
        raise UserError(f"{path}: there are {len(labels)} labels, and at most {IGNORE_LABEL - 1} can be told apart")
    with _naming(path):
        found = _content(path)
        if isinstance(found, CocoFile):
            size, areas = _coco_areas(found, path, image)
        else:
            size = int(found["imageHeight"]), int(found["imageWidth"])
            areas = ((str(shape["label"]), _labelme_shape(shape, size)) for shape in found["shapes"])
        ground = next((labels.index(name) for name in GROUND if name in labels), IGNORE_LABEL)
        raw = np.full(size, ground, np.uint8)
        for label, pixels in areas:
            if label and label not in labels:
                raise UserError(
                    f"the label {label!r} is none of config.data.labels, or config.data.classes "
                    f"({nearest(label, labels)}): name it there; config.data.ids maps it to 255 to ignore it"
                )
            raw[pixels] = labels.index(label) if label else IGNORE_LABEL
        return raw


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Lets errors of a malformed file be a UserError that names it."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from None
    except _MALFORMED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: not as labelme or COCO write it ({reason}): mend or remove it") from error


def _content(path: Path) -> dict[str, Any] | CocoFile:
    """What a file holds; one of COCO, which is of many images, is kept."""
    try:
        key = path, path.stat().st_mtime_ns
        with _lock:
            if key not in _kept:
                found = json.loads(path.read_bytes())
                if _is_labelme(found):
                    return found
                while len(_kept) >= _MOST_KEPT:
                    _kept.pop(next(iter(_kept)))
                _kept[key] = _coco(found)
            return _kept[key]
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}): mend or remove it") from None


def _is_labelme(found: Any) -> bool:
    return isinstance(found, dict) and "shapes" in found


def _labelme_shape(shape: dict[str, Any], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    points, kind = np.array(shape["points"], float).reshape(-1, 2), shape.get("shape_type") or "polygon"
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind == "circle":
        centre, edge = points
        angles = np.arange(_CIRCLE) * (2 * math.pi / _CIRCLE)
        points = centre + math.dist(centre, edge) * np.stack([np.cos(angles), np.sin(angles)], -1)
    elif kind == "mask":
        return _labelme_mask(shape, points, size)
    elif kind != "polygon":
        raise UserError(f"a shape of type {kind!r} ({shape['label']!r}) has no area: draw a polygon, or remove it")
    return polygon(points, size)


def _labelme_mask(shape: dict[str, Any], points: np.ndarray, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A small picture in the file, with its first corner at the first point."""
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
        part = np.asarray(image.convert("L")) > 0
    x, y = points[0].round().astype(int)
    pixels = np.zeros(size, bool)
    inside = part[max(0, -y) : size[0] - y, max(0, -x) : size[1] - x]
    pixels[max(0, y) : max(0, y) + inside.shape[0], max(0, x) : max(0, x) + inside.shape[1]] = inside
    return pixels


def coco_file(path: Path) -> CocoFile:
    """A JSON file of COCO, with its annotations by image.  Raises UserError for what is none."""
    with _naming(path):
        found = _content(path)
        if not isinstance(found, CocoFile):
            raise UserError("this is a file of labelme, not of COCO")
        return found


def _coco(found: Any) -> CocoFile:
    names = {int(one["id"]): str(one["name"]) for one in found["categories"]}
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for one in found["annotations"]:
        of_image.setdefault(one["image_id"], []).append(one)
    images = {
        str(one["file_name"]): ((int(one["height"]), int(one["width"])), of_image.get(one["id"], []))
        for one in found["images"]
    }
    return CocoFile(tuple(dict.fromkeys(names.values())), images, names)


def _of_image(file: CocoFile, image: Path) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    # The names of images are paths below some folder, or names alone.
    found = next((name for name in (*_ends(image), image.name) if name in file.images), None)
    if found is None:
        raise UserError(f"no image is named {image.name}")
    return file.images[found]


def _ends(path: Path) -> Iterator[str]:
    return ("/".join(path.parts[-count:]) for count in range(min(5, len(path.parts)), 1, -1))


def _coco_areas(file: CocoFile, path: Path, image: Path) -> tuple[tuple[int, int], Iterator[tuple[str, np.ndarray]]]:
    """The size of an image, and its areas with their labels, from the bottom up; "" for one that is ignored."""
    size, annotations = _of_image(file, image)
    names = file.names
    if annotations and "segments_info" in annotations[0]:
        return size, _segments(path, annotations[0], names)
    areas = [
        ("" if one.get("iscrowd") else names[one["category_id"]], _segmentation(one["segmentation"], size))
        for one in annotations
    ]
    return size, iter(sorted(areas, key=lambda area: -int(area[1].sum())))


def _segmentation(found: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    if isinstance(found, dict):
        return run_lengths(found["counts"], size)
    # Parts of one object; a hole is its own part in no file of COCO.
    parts = (polygon(np.array(part, float).reshape(-1, 2), size) for part in found)
    return functools.reduce(np.logical_or, parts, np.zeros(size, bool))


def _segments(path: Path, annotation: dict[str, Any], names: dict[int, str]) -> Iterator[tuple[str, np.ndarray]]:
    """The segments of a panoptic picture, which lies in the folder named like the JSON file."""
    picture = path.with_suffix("") / annotation["file_name"]
    rgb = decode.opened(picture, str(picture), lambda image: np.asarray(image.convert("RGB")), verified=True)
    ids = rgb.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
    for segment in annotation["segments_info"]:
        yield names[segment["category_id"]], ids == segment["id"]
