"""Polygons of masks: rings by hand, pixels back from polygons, validity by the rules of simple features."""

import json

import numpy as np
import pytest

from attnseg_jax.inference.geotiff import Place
from attnseg_jax.inference.polygons import feature_collection, polygons


def area(ring):
    x, y = np.array(ring).T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def inside(ring, points):
    """Even-odd rule for the middles of pixels."""
    ring, found = np.array(ring), np.zeros(len(points), bool)
    for (x0, y0), (_, y1) in zip(ring, np.roll(ring, -1, 0)):
        if y0 != y1:
            crossed = (points[:, 1] > min(y0, y1)) & (points[:, 1] < max(y0, y1))
            found ^= crossed & (points[:, 0] < x0)
    return found


def test_a_ring_with_a_hole_and_an_island():
    mask = np.zeros((7, 9), bool)
    mask[1:6, 1:8] = True
    mask[2:5, 2:7] = False
    mask[3, 4] = True
    (first, rings), (second, island) = polygons(mask)
    assert (first, second) == (35 - 15, 1)
    assert [ring.tolist() for ring in rings] == [
        [[1, 1], [8, 1], [8, 6], [1, 6]],
        [[2, 2], [2, 5], [7, 5], [7, 2]],
    ]
    assert [ring.tolist() for ring in island] == [[[4, 3], [5, 3], [5, 4], [4, 4]]]


def test_where_pixels_touch_at_corners():
    """Two regions that touch are two; a region around a corner of its own has a hole that touches its outline."""
    assert [size for size, _ in polygons(np.eye(2, dtype=bool))] == [1, 1]
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
    ((size, (outline, hole)),) = polygons(mask)
    assert (size, area(outline), area(hole)) == (7, 8, -1)
    assert [2, 2] in outline.tolist() and [2, 2] in hole.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_random_masks(seed):
    """Each polygon holds the pixels of its region and no others; rings are simple and meet at single corners alone."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 3, (13, 17)) if seed else np.kron(rng.integers(0, 2, (5, 6)), np.ones((3, 3), int))
    h, w = mask.shape
    points = np.stack(np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5), -1).reshape(-1, 2)
    drawn, total = np.full(mask.shape, -1), 0
    for feature in json.loads(feature_collection(mask, ["a", "b", "c"]))["features"]:
        rings = [ring[:-1] for ring in feature["geometry"]["coordinates"]]
        assert all(ring[0] == ring[-1] for ring in feature["geometry"]["coordinates"])
        outline, *holes = rings
        pixels = inside(outline, points)
        for hole in holes:
            assert not (inside(hole, points) & ~pixels).any() and area(hole) < 0
            pixels &= ~inside(hole, points)
        pixels = pixels.reshape(h, w)
        assert pixels.sum() == feature["properties"]["pixels"] == sum(map(area, rings))
        assert (mask[pixels] == feature["properties"]["class"]).all() and (drawn[pixels] == -1).all()
        drawn[pixels], total = feature["properties"]["class"], total + pixels.sum()
        for i, ring in enumerate(rings):
            # No corner twice, and no corner in the middle of a straight line.
            assert len({*map(tuple, ring)}) == len(ring)
            steps = np.sign(np.roll(ring, -1, 0) - np.array(ring))
            assert (np.abs(steps).sum(1) == 1).all() and (steps != np.roll(steps, 1, 0)).any(1).all()
            sides = [units(ring), *(units(other) for other in rings[:i])]
            assert sum(map(len, sides)) == len(set().union(*sides))
    assert total == h * w and (drawn == mask).all()


def units(ring):
    """The sides of pixels along a ring."""
    found = set()
    for a, b in zip(np.array(ring), np.roll(ring, -1, 0)):
        step = np.sign(b - a)
        for i in range(np.abs(b - a).sum()):
            found.add((*np.minimum(a + i * step, a + (i + 1) * step).tolist(), bool(step[0])))
    return found


def test_on_a_map():
    """30 m to the right and 20 m up from (500, 800): y falls where rows grow, and outlines turn the same way."""
    place = Place({33550: (12, (30.0, 20.0, 0.0)), 33922: (12, (0, 0, 0, 500.0, 800.0, 0)),
                   34735: (3, (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32633))})  # fmt: skip
    found = json.loads(feature_collection(np.zeros((2, 3), int), ["a"], place))
    (ring,) = found["features"][0]["geometry"]["coordinates"]
    assert sorted(map(tuple, ring[1:])) == [(500, 760), (500, 800), (590, 760), (590, 800)] and area(ring[:-1]) > 0
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    # Coordinates of the middles of pixels.
    tags = {**place.tags, 34735: (3, (1, 1, 0, 1, 1025, 0, 1, 2))}
    np.testing.assert_array_equal(Place(tags).affine, [[30, 0, 485], [0, -20, 810]])
    assert Place(tags).epsg is None
    matrix = (30, 0, 0, 500, 0, -20, 0, 800, 0, 0, 0, 0, 0, 0, 0, 1)
    np.testing.assert_array_equal(Place({34264: (12, matrix)}).affine, place.affine)
