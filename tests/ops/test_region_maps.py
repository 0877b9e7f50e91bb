"""Hard regions: their pixels, boxes, and scores painted back."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from attnseg_jax.ops import region_maps

COUNT = 6


def some():
    """Two levels; borders, a region of one pixel, pixels of no region, numbers nobody has, an image without regions."""
    regions = np.full((2, 5, 7, 2), -1, np.int32)
    regions[0, :2, :, 0], regions[0, 2:, 3:, 0], regions[0, 4, 0, 0] = 0, 1, 3
    regions[0, 1:4, 2:6, 1] = 4
    return regions


def test_masks_and_boxes():
    regions = some()
    masks = np.asarray(region_maps.region_masks(jnp.asarray(regions), COUNT))
    boxes = np.asarray(region_maps.mask_boxes(jnp.asarray(masks)))
    for b, r in np.ndindex(2, COUNT):
        own = [(y, x) for y, x in np.ndindex(5, 7) if r in regions[b, y, x]]
        assert {tuple(place) for place in np.argwhere(masks[b, :, :, r])} == set(own)
        ys, xs = [y for y, _ in own] or [-1], [x for _, x in own] or [-1]
        expected = [min(xs), min(ys), max(xs) + 1, max(ys) + 1] if own else [0, 0, 0, 0]
        np.testing.assert_array_equal(boxes[b, r], expected)
    assert masks[0, ..., 3].sum() == 1 and not masks[1].any()


def painted_maximum(scores, regions):
    return region_maps.level_maximum(region_maps.paint(scores, regions), regions)


def test_painting_takes_the_maximum_of_what_covers_a_pixel():
    regions, scores = some(), np.random.default_rng(0).normal(size=(2, COUNT, 3)).astype(np.float32) - 1
    found = np.asarray(painted_maximum(scores, regions))
    for b, y, x in np.ndindex(2, 5, 7):
        own = [scores[b, r] for r in regions[b, y, x] if r >= 0]
        np.testing.assert_array_equal(found[b, y, x], np.max(own, axis=0) if own else np.zeros(3))


def test_gradients_of_painting():
    regions = some()
    scores = np.random.default_rng(0).permutation(2 * COUNT * 3).reshape(2, COUNT, 3).astype(np.float32) / 7
    check_grads(lambda s: painted_maximum(s, regions), (scores,), order=1, modes=["rev"], eps=1e-2, rtol=1e-2)
    gradient = jax.grad(lambda s: painted_maximum(s, regions).sum())(scores)
    assert np.isfinite(gradient).all() and np.any(gradient[0])
    # Numbers that no pixel has, and an image without regions.
    np.testing.assert_array_equal(gradient[0][np.array([2, 5])], 0)
    np.testing.assert_array_equal(gradient[1], 0)


def test_other_numbers_paint_the_same_pixels():
    regions, scores = some(), np.random.default_rng(0).normal(size=(2, COUNT, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(COUNT)
    renamed = np.where(regions >= 0, order[regions], -1).astype(np.int32)
    moved = np.empty_like(scores)
    moved[:, order] = scores
    np.testing.assert_array_equal(painted_maximum(scores, regions), painted_maximum(moved, renamed))


def test_a_number_without_scores_does_not_go_unnoticed():
    painted = region_maps.paint(jnp.ones((1, 2, 3)), jnp.array([1, 2, -1]).reshape(1, 1, 3, 1))
    assert np.isnan(painted[0, 0, :, 0, 0]).tolist() == [False, True, False]
