"""RoI pooling and RoIAlign: torchvision's values, independent loops, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc

from attnseg_jax.ops.roi import roi_align, roi_max_pool

SCALE = 0.25
CASES = {
    "roi_align_aligned0_sr2": lambda x, boxes: roi_align(x, boxes, 7, aligned=False),
    "roi_align_aligned0_sr-1": lambda x, boxes: roi_align(x, boxes, 7, sampling=0, aligned=False),
    "roi_align_aligned1_sr2": lambda x, boxes: roi_align(x, boxes, 7),
    "roi_align_aligned1_sr-1": lambda x, boxes: roi_align(x, boxes, 7, sampling=0),
    "roi_align_3x5": lambda x, boxes: roi_align(x, boxes, (3, 5)),
    "roi_pool": lambda x, boxes: roi_max_pool(x, boxes, 7),
}
load = functools.cache(Golden)


@functools.cache
def computed():
    inputs = load("op_roi").inputs()
    image, boxes = inputs["boxes"][:, 0].astype(int), inputs["boxes"][:, 1:] * np.float32(SCALE)
    # Every box on both images; each is then taken from its own.
    both = jnp.broadcast_to(jnp.asarray(boxes)[None], (2, *boxes.shape))
    run = jax.jit(lambda x, both: {name: function(x, both) for name, function in CASES.items()})
    return {name: np.asarray(y)[image, np.arange(len(boxes))] for name, y in run(nhwc(inputs["x"]), both).items()}


@pytest.mark.parametrize("name", CASES)
def test_goldens(name):
    assert set(CASES) == set(load("op_roi").info["outputs"])
    assert_golden(load("op_roi"), name, nchw(computed()[name]))


# Beyond the border, of less than a cell, at the far corner, and the whole map.
BOXES = np.array(
    [[[-0.7, 0.3, 4.1, 5.2], [2.2, 3.1, 2.6, 3.4], [5.0, 6.0, 6.0, 7.0]],
     [[0.0, 0.0, 6.0, 7.0], [1.5, 0.2, 5.7, 2.9], [0.0, 2.0, 3.0, 6.6]]],
    np.float32,
)  # fmt: skip
SIZE = (2, 3)


def some(seed=0, channels=5):
    rng = np.random.default_rng(seed)
    x = rng.permutation(2 * 7 * 6 * channels).reshape(2, 7, 6, channels) / 17.0
    return x.astype(np.float32), rng.random((2, 3, 7, 6)) < 0.5


def bilinear(image, y, x):
    """The value of a map [h, w, c] at a point, by its four neighbours."""
    h, w, _ = image.shape
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    total = 0.0
    for row in range(h):
        for column in range(w):
            total = total + max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column)) * image[row, column]
    return total


def aligned_mean(x, boxes, size, points, weights=None):
    b, r, c = x.shape[0], boxes.shape[1], x.shape[3]
    out = np.zeros((b, r, *size, c))
    for n, q, i, j in np.ndindex(b, r, *size):
        x1, y1, x2, y2 = boxes[n, q].astype(np.float64) - 0.5
        own = np.ones(x.shape[1:3]) if weights is None else weights[n, q].astype(np.float64)
        above, below = 0.0, 0.0
        for p, s in np.ndindex(points, points):
            y = y1 + (i + (p + 0.5) / points) * (y2 - y1) / size[0]
            z = x1 + (j + (s + 0.5) / points) * (x2 - x1) / size[1]
            above = above + bilinear(x[n].astype(np.float64) * own[..., None], y, z)
            below = below + bilinear(own[..., None], y, z)[0]
        if below > 0:
            out[n, q, i, j] = above / below
    return out


@pytest.mark.thorough
@pytest.mark.parametrize("points", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [2, 5])
def test_roi_align_is_a_mean_over_points(points, masked, channels):
    x, inside = some(channels=channels)
    weights = inside * np.float32(0.25) if masked else None
    # The oracle is of boxes whose points all count.
    found = roi_align(x, BOXES, SIZE, sampling=points, inside=weights)
    np.testing.assert_allclose(found, aligned_mean(x, BOXES, SIZE, points, weights), rtol=1e-5, atol=1e-5)


def largest(x, boxes, size, inside=None):
    b, r, c = x.shape[0], boxes.shape[1], x.shape[3]
    out = np.zeros((b, r, *size, c))
    for n, q, i, j in np.ndindex(b, r, *size):
        x1, y1, x2, y2 = (int(np.sign(v) * np.floor(abs(v) + 0.5)) for v in boxes[n, q])
        values = [
            x[n, row, column]
            for row in range(x.shape[1])
            for column in range(x.shape[2])
            if y1 + np.floor(i * (y2 - y1 + 1) / size[0]) <= row < y1 + np.ceil((i + 1) * (y2 - y1 + 1) / size[0])
            and x1 + np.floor(j * (x2 - x1 + 1) / size[1]) <= column < x1 + np.ceil((j + 1) * (x2 - x1 + 1) / size[1])
            and (inside is None or inside[n, q, row, column])
        ]
        if values:
            out[n, q, i, j] = np.max(values, axis=0)
    return out


@pytest.mark.thorough
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(2, 3), (1, 1), (9, 2)])
def test_roi_max_pool_takes_the_largest(masked, size):
    x, inside = some()
    x = x - 5  # so that 0 is not the least
    given = inside if masked else None
    np.testing.assert_allclose(roi_max_pool(x, BOXES, size, inside=given), largest(x, BOXES, size, given), rtol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("masked", [False, True])
def test_gradients(masked):
    x, inside = some(1, channels=2)
    weights, flags = (inside.astype(np.float32), inside) if masked else (None, None)
    options = {"order": 1, "modes": ["rev"], "rtol": 1e-2}
    check_grads(lambda x: roi_align(x, BOXES, SIZE, inside=weights), (x,), eps=1.0, **options)
    # All cells are at least 1 apart, so that a step changes no maximum.
    check_grads(lambda x: roi_max_pool(x, BOXES, SIZE, inside=flags), (17 * x,), eps=0.1, **options)


@pytest.mark.parametrize("op", ["align", "pool"])
def test_what_a_region_does_not_have_is_not_seen(op):
    """Values do not change with cells outside, and those get exactly no gradient; nothing inside at all is 0."""
    x, inside = some(2)
    inside[1] = False
    function = {
        "align": lambda x: roi_align(x, BOXES, SIZE, inside=inside.astype(np.float32)),
        "pool": lambda x: roi_max_pool(x, BOXES, SIZE, inside=inside),
    }[op]
    hidden = ~inside.any(1)[..., None]
    np.testing.assert_array_equal(function(x), function(np.where(hidden, 99.0, x).astype(np.float32)))
    gradient = np.asarray(jax.grad(lambda x: function(x).sum())(x))
    assert np.isfinite(gradient).all() and gradient[0].any()
    assert not gradient[np.broadcast_to(hidden, gradient.shape)].any()
    assert not np.asarray(function(x))[1].any()


def test_the_first_of_equal_cells_takes_the_gradient():
    boxes = jnp.array([[[0.0, 0.0, 2.0, 1.0]]])
    gradient = jax.grad(lambda x: roi_max_pool(x, boxes, 1).sum())(jnp.ones((1, 2, 3, 1)))
    np.testing.assert_array_equal(gradient[0, ..., 0], [[1, 0, 0], [0, 0, 0]])


def test_boxes_get_no_gradient_and_the_dtype_stays():
    x, _ = some()
    for function in (roi_align, roi_max_pool):
        gradient = jax.grad(lambda boxes, f=function: f(x, boxes, SIZE).sum())(jnp.asarray(BOXES))
        np.testing.assert_array_equal(gradient, 0)
        assert function(jnp.asarray(x, jnp.bfloat16), BOXES, SIZE).dtype == jnp.bfloat16
