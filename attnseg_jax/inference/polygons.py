"""A mask as GeoJSON: a polygon, with its holes, for each connected region of a class."""

import json
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy import ndimage

from attnseg_jax.inference.geotiff import Place

Ring = Int[np.ndarray, "n 2"]
"""Corners (x, y) of a closed line, the first one once."""

# Steps (x, y) to the right, down, to the left, up, with the region on the right-hand side.
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


def polygons(mask: Bool[np.ndarray, "h w"]) -> Iterator[tuple[int, list[Ring]]]:
    """The regions of a mask, which are connected across sides: pixels, and rings along the sides of pixels.

    The first ring is the outline, which has a positive area in (x, y), the others are holes, of negative areas. Rings
    cross neither themselves nor each other; holes may touch the outline or another hole at corners. Every pixel is in
    the region of its own, so that the polygons of all classes cover an image without gaps.

    >>> list(polygons(np.array([[1, 1], [0, 1]], bool)))[0][1][0].tolist()
    [[0, 0], [2, 0], [2, 2], [1, 2], [1, 1], [0, 1]]
    """
    numbers, count = ndimage.label(mask)
    rings: list[list[Ring]] = [[] for _ in range(count)]
    for number, ring in _rings(np.pad(numbers, 1)):
        # A region is met at its topmost row first, which is part of the outline.
        rings[number - 1].append(ring - 1)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    yield from zip(sizes.tolist(), rings, strict=True)


def feature_collection(mask: Integer[np.ndarray, "h w *k"], names: Sequence[str], place: Place | None = None) -> bytes:
    """The regions of all classes as a GeoJSON file; of a mask [h, w, k] where each class is 1.

    Coordinates are those of corners of pixels, x to the right and y down from the upper left corner of the image; with
    a `place` those of its map.
    """
    features = []
    for k in np.unique(mask).tolist() if mask.ndim == 2 else range(len(names)):
        for pixels, rings in polygons(mask == k if mask.ndim == 2 else mask[..., k] == 1):
            coordinates = [_closed(ring, place) for ring in rings]
            features.append(
                {
                    "type": "Feature",
                    "properties": {"class": k, "name": names[k], "pixels": pixels},
                    "geometry": {"type": "Polygon", "coordinates": coordinates},
                }
            )
    collection = {"type": "FeatureCollection", "features": features}
    if place and place.epsg:
        crs = f"urn:ogc:def:crs:EPSG::{place.epsg}"
        collection["crs"] = {"type": "name", "properties": {"name": crs}}
    return (json.dumps(collection, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def _closed(ring: Ring, place: Place | None) -> list[list[float]]:
    points: Float[np.ndarray, "n 2"] | Ring = ring
    if place:
        points = ring @ place.affine[:, :2].T + place.affine[:, 2]
        # Where the map's y grows upwards the sense of rotation changes.
        if np.linalg.det(place.affine[:, :2]) < 0:
            points = points[::-1]
    found = points.tolist()
    return [*found, found[0]]


def _rings(numbers: Int[np.ndarray, "h w"]) -> Iterator[tuple[int, Ring]]:
    """The number of a region and a ring of it, by its topmost, leftmost side; numbers are 0 at the image's border."""
    start, direction, region = _sides(numbers)
    width = numbers.shape[1] + 1
    corner = start @ np.array([1, width])
    key = (corner * 4 + direction).astype(np.int64)
    # At a corner where a region meets itself there are two ways on: the one to the left keeps to the same background,
    # so that rings do not touch themselves.
    order = np.argsort(key, kind="stable")
    ends = (start + _STEPS[direction]) @ np.array([1, width])
    following = np.full(len(key), -1)
    for turn in (1, 0, -1):
        wanted = ends * 4 + (direction + turn) % 4
        place = np.searchsorted(key[order], wanted).clip(max=len(key) - 1)
        candidate = order[place]
        fits = (key[candidate] == wanted) & (region[candidate] == region)
        following = np.where(fits, candidate, following)
    turns = np.empty(len(key), bool)
    turns[following] = direction[following] != direction
    onward, is_corner, seen = following.tolist(), turns.tolist(), bytearray(len(key))
    for first in np.lexsort((start[:, 0], start[:, 1])).tolist():
        if seen[first]:
            continue
        ring, side = [], first
        while not seen[side]:
            seen[side] = 1
            if is_corner[side]:
                ring.append(side)
            side = onward[side]
        yield int(region[first]), start[ring]


def _sides(numbers: np.ndarray) -> tuple[Int[np.ndarray, "n 2"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Where each side of a region begins (x, y), which of `_STEPS` it is, and whose it is."""
    starts, directions, regions = [], [], []
    # The neighbour behind each side, and the corner of a pixel where the side begins.
    for direction, (shift, axis, corner) in enumerate(
        ((1, 0, (0, 0)), (-1, 1, (1, 0)), (-1, 0, (1, 1)), (1, 1, (0, 1)))
    ):
        y, x = np.nonzero((numbers > 0) & (np.roll(numbers, shift, axis) != numbers))
        starts.append(np.stack([x + corner[0], y + corner[1]], -1))
        directions.append(np.full(len(y), direction))
        regions.append(numbers[y, x])
    return np.concatenate(starts), np.concatenate(directions), np.concatenate(regions)
