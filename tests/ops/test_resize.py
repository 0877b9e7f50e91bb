"""Resizing: properties that hold whatever the implementation (the values are PyTorch's, see test_goldens)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from attnseg_jax.ops.platforms import portable
from attnseg_jax.ops.resize import METHODS, interpolation_matrix, resize

SIZES = [(5, 29), (11, 13), (23, 7)]
SMOOTH = [
    dict(method=method, **options)
    for method, options in itertools.product(
        ("bilinear", "bicubic"), ({}, {"align_corners": True}, {"antialias": True})
    )
]


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def bilinear(x, size, align_corners):
    """Pixel by pixel, in float64."""
    x = np.asarray(x, np.float64)
    out = np.zeros((len(x), *size, x.shape[-1]))
    for i, j in np.ndindex(size):
        total = 0.0
        taps = []
        for p, n, o in zip((i, j), x.shape[1:3], size):
            s = p * (n - 1) / (o - 1) if align_corners else min(max((p + 0.5) * n / o - 0.5, 0), n - 1)
            low = int(s)
            taps.append([(low, 1 - (s - low)), (min(low + 1, n - 1), s - low)])
        for (r, u), (c, v) in itertools.product(*taps):
            total = total + u * v * x[:, r, c]
        out[:, i, j] = total
    return out


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_bilinear_equals_a_loop(size, align_corners):
    x = draw(2, 11, 13, 3)
    np.testing.assert_allclose(
        resize(x, size, align_corners=align_corners), bilinear(x, size, align_corners), atol=1e-5
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("keywords", [*SMOOTH, *({"method": m} for m in ("nearest", "nearest-exact", "area"))], ids=str)
def test_constants_stay_and_axes_are_independent(keywords, size):
    ones = resize(jnp.full((1, 11, 13, 2), 3.0), size, **keywords)
    np.testing.assert_allclose(ones, np.full((1, *size, 2), 3.0), rtol=1e-6)
    x = draw(1, 11, 13, 2)
    one_by_one = resize(resize(x, (size[0], 13), **keywords), size, **keywords)
    np.testing.assert_allclose(resize(x, size, **keywords), one_by_one, atol=1e-5)
    turned = resize(x.swapaxes(1, 2), size[::-1], **keywords).swapaxes(1, 2)
    np.testing.assert_allclose(resize(x, size, **keywords), turned, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_size_is_the_identity(method):
    x = draw(2, 5, 7, 3)
    np.testing.assert_array_equal(resize(x, (5, 7), method), x)


@pytest.mark.parametrize("keywords", SMOOTH, ids=str)
def test_half_pixel_grids_are_symmetric(keywords):
    x = draw(1, 11, 13, 1)
    mirrored = resize(x[:, ::-1, ::-1], (8, 30), **keywords)[:, ::-1, ::-1]
    np.testing.assert_allclose(mirrored, resize(x, (8, 30), **keywords), atol=1e-5)


def test_labels_keep_their_type():
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 255, (1, 5, 7, 1)), jnp.uint8)
    up = resize(labels, (10, 14), "nearest")
    assert up.dtype == jnp.uint8
    np.testing.assert_array_equal(up, np.asarray(labels).repeat(2, 1).repeat(2, 2))
    with pytest.raises(ValueError, match="nearest"):
        resize(labels, (10, 14))


@pytest.mark.parametrize("keywords", [{}, {"method": "bicubic"}, {"method": "area"}, {"method": "nearest"}], ids=str)
def test_gradients_vmap_and_bfloat16(keywords):
    x = draw(1, 4, 5, 2)

    def function(x):
        return resize(x, (7, 3), **keywords)

    check_grads(jax.jit(function), (x,), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)
    stacked = draw(3, 1, 4, 5, 2)
    np.testing.assert_allclose(jax.vmap(function)(stacked), jnp.stack([function(t) for t in stacked]), atol=1e-6)
    low = x.astype(jnp.bfloat16)
    assert function(low).dtype == jnp.bfloat16
    # Interpolated in float32: only the result is rounded.
    np.testing.assert_array_equal(function(low), function(low.astype(jnp.float32)).astype(jnp.bfloat16))


def test_interpolation_asks_for_full_precision():
    with jax.default_matmul_precision("bfloat16"), portable():
        text = str(jax.make_jaxpr(lambda x: resize(x, (9, 8)))(draw(1, 4, 5, 2)))
    assert text.count("dot_general") == text.count("Precision.HIGHEST, Precision.HIGHEST") == 2


@pytest.mark.parametrize("keywords", [k for k in SMOOTH if not k.get("antialias")], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_neighbours_equal_the_products_with_matrices(size, keywords):
    """A CPU reads the few neighbours of each pixel; other platforms, and gradients everywhere, have products."""
    x = draw(2, 11, 13, 3)

    def function(x):
        return resize(x, size, **keywords)

    def product(x):
        with portable():
            return function(x)

    np.testing.assert_allclose(function(x), product(x), atol=2e-6)
    assert "dot_general" not in str(jax.make_jaxpr(function)(x)) and "gather" not in str(jax.make_jaxpr(product)(x))
    found, wanted = (jax.jvp(f, (x,), (x + 1,)) for f in (function, product))
    np.testing.assert_array_equal(found, wanted)
    found, wanted = (jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (function, product))
    np.testing.assert_array_equal(found, wanted)


def test_a_number_that_is_none_stays_where_it_is():
    """In a product it would be in every pixel of its row and column."""
    x = jnp.ones((1, 9, 9, 1)).at[0, 4, 4].set(jnp.inf)
    found = np.isfinite(resize(x, (18, 18))[0, ..., 0])
    assert not found[7:11, 7:11].any() and found[:6].all() and found[:, 12:].all()


def test_antialiasing_widens_the_kernel_only_when_shrinking():
    assert (interpolation_matrix(12, 4, "bilinear") > 0).sum(1).tolist() == [1, 1, 1, 1]
    assert (interpolation_matrix(12, 4, "bilinear", antialias=True) > 0).sum(1).tolist() == [4, 5, 5, 4]
    up = [interpolation_matrix(4, 12, "bilinear", antialias=antialias) for antialias in (True, False)]
    np.testing.assert_allclose(*up, atol=1e-6)


def test_wrong_arguments():
    x = draw(1, 4, 5, 2)
    for size, keywords in (
        ((3, 3), {"method": "linear"}),
        ((0, 3), {}),
        ((3, 3), {"method": "area", "align_corners": True}),
        ((3, 3), {"method": "nearest", "antialias": True}),
        ((3, 3), {"align_corners": True, "antialias": True}),
    ):
        with pytest.raises(ValueError):
            resize(x, size, **keywords)
    with pytest.raises(ValueError):
        resize(x[0], (3, 3))
