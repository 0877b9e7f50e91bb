"""Boundary IoU: against a loop over pixels, by hand, and what ignored pixels do (nothing)."""

import math

import numpy as np
import pytest

from attnseg_jax.evaluation import boundary_iou

H, W, K = 13, 17, 5


def near_by_erosion(mask, known, reach):
    """The mask less its erosion, pixel by pixel: out goes what has something else, or the outside, near it."""
    h, w = mask.shape
    near = np.zeros((h, w), bool)
    for y in range(h):
        for x in range(w):
            for v in range(y - reach, y + reach + 1):
                for u in range(x - reach, x + reach + 1):
                    outside = not (0 <= v < h and 0 <= u < w)
                    if mask[y, x] and (outside or (known[v, u] and not mask[v, u])):
                        near[y, x] = True
    return near


def counts_by_loops(truth, prediction, num_classes, reach):
    known = truth != 255
    result = np.zeros((2, num_classes, 3), int)
    for k in range(num_classes):
        masks = [known & (truth == k), known & (prediction == k)]
        for row, (t, p) in enumerate((masks, [near_by_erosion(mask, known, reach) for mask in masks])):
            for a, b in zip(t.ravel(), p.ravel()):
                result[row, k] += (int(a and b), int(b and not a), int(a and not b))
    return result


def random_maps(seed, shape=(H, W), void=0.1):
    """Two maps that mostly agree, of blocks that do not fit the image, some pixels without a label."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, K, (-(-shape[0] // 4), -(-shape[1] // 5)))
    truth = np.kron(blocks, np.ones((4, 5), int))[: shape[0], : shape[1]]
    prediction = np.where(rng.random(shape) < 0.1, rng.integers(0, K, shape), np.roll(truth, (1, 2), (0, 1)))
    return np.where(rng.random(shape) < void, 255, truth), prediction


@pytest.mark.parametrize("share, reach, void", [(0.02, 1, 0.0), (0.1, 2, 0.15), (0.19, 4, 0.0), (1.0, 21, 0.15)])
def test_against_loops(share, reach, void):
    assert boundary_iou.band_width(H, W, share) == reach
    truth, prediction = random_maps(reach, void=void)
    np.testing.assert_array_equal(
        boundary_iou.count_image(truth.astype(np.int32), prediction.astype(np.uint8), K, share),
        counts_by_loops(truth, prediction, K, reach),
    )


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1), (3, 2)])
def test_small_images(shape):
    truth, prediction = random_maps(3, shape)
    np.testing.assert_array_equal(
        boundary_iou.count_image(truth, prediction, K), counts_by_loops(truth, prediction, K, 1)
    )


def test_by_hand():
    """A square of 5 x 5 in the middle of 9 x 11 pixels, found one column too far to the right; one pixel reaches."""
    truth = np.zeros((9, 11), np.uint8)
    truth[2:7, 3:8] = 1
    prediction = np.roll(truth, 1, 1)
    region, near = boundary_iou.count_image(truth, prediction, 2)
    np.testing.assert_array_equal(region[1], [20, 5, 5])
    # Rings of 16 pixels share four of their upper and four of their lower sides.
    np.testing.assert_array_equal(near[1], [8, 8, 8])
    # The other class: 36 pixels at the image's border and the 24 around each square.
    np.testing.assert_array_equal(near[0].sum() + near[0, 0], 2 * (36 + 24))


def test_the_right_answer_is_one():
    truth, _ = random_maps(5)
    counted = boundary_iou.count_image(truth, truth, K)
    assert (counted[..., 1:] == 0).all() and (counted[..., 0].sum(1) > 0).all()
    assert counted[1, :, 0].sum() < counted[0, :, 0].sum()


def test_what_is_predicted_at_ignored_pixels_changes_nothing():
    truth, prediction = random_maps(7, void=0.3)
    other = np.where(truth == 255, (prediction + 1) % K, prediction)
    np.testing.assert_array_equal(
        boundary_iou.count_image(truth, prediction, K), boundary_iou.count_image(truth, other, K)
    )


def test_a_contour_against_ignored_pixels_is_none():
    """Two classes apart by more ignored pixels than the distance: near is only the border of the image."""
    truth = np.zeros((20, 31), np.uint8)
    truth[:, 10:14], truth[:, 14:] = 255, 1
    near = boundary_iou.contour_band(truth, 2)
    assert not near[2:-2, 2:-2].any() and near[:2, :10].all() and not near[:, 10:14].any()
    # By fewer: it reaches across.
    np.testing.assert_array_equal(
        boundary_iou.contour_band(truth, 5)[9, :16], [1] * 5 + [0] * 4 + [1] + [0] * 4 + [1, 0]
    )


def test_an_image_of_one_class_and_one_without_labels():
    truth = np.zeros((H, W), np.uint8)
    region, near = boundary_iou.count_image(truth, truth, 2)
    np.testing.assert_array_equal(region, [[H * W, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(near[0], [2 * (H + W) - 4, 0, 0])
    assert not boundary_iou.count_image(np.full((H, W), 255), truth, 2).any()


def test_the_distance_is_a_share_of_the_diagonal():
    assert boundary_iou.band_width(360, 480) == round(0.02 * math.sqrt(360**2 + 480**2)) == 12
    assert boundary_iou.band_width(3, 4) == 1
