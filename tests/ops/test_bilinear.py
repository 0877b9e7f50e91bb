"""Bilinear interpolation between sizes that are known when the program runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.ops.bilinear import resize_inside, resize_rows
from attnseg_jax.ops.resize import interpolation_matrix

# Height and width of what is resized, and of what it becomes: larger, smaller, the same, and a single pixel.
PAIRS = [((7, 11), (16, 23)), ((12, 9), (5, 6)), ((13, 17), (13, 17)), ((1, 5), (3, 1))]
SIZE = (19, 24)


@pytest.fixture(scope="module")
def case():
    x = np.random.default_rng(0).normal(size=(len(PAIRS), 13, 17, 3))
    expected = [
        np.einsum(
            "ih,jw,hwc->ijc",
            *(interpolation_matrix(n, out, "bilinear").astype(np.float64) for n, out in zip(inside, full)),
            row[: inside[0], : inside[1]],
        )
        for row, (inside, full) in zip(x, PAIRS)
    ]
    inside, full = (jnp.array(sizes) for sizes in zip(*PAIRS))
    return jnp.asarray(x, jnp.float32), inside, full, expected


def test_maps_of_several_sizes_in_one_program(case):
    x, inside, full, expected = case
    found = jax.jit(resize_inside, static_argnums=3)(x, inside, full, SIZE)
    assert found.shape == (len(PAIRS), *SIZE, 3)
    for row, wanted, one, (i, j) in zip(np.asarray(found), expected, x, np.asarray(inside)):
        h, w, _ = wanted.shape
        np.testing.assert_allclose(row[-1, -1], one[i - 1, j - 1], atol=1e-6)
        np.testing.assert_allclose(row[:h, :w], wanted, atol=2e-6)
        np.testing.assert_array_equal(row[h:], np.broadcast_to(row[-1:], row[h:].shape))
        np.testing.assert_array_equal(row[:, w:], np.broadcast_to(row[:, -1:], row[:, w:].shape))


def test_what_lies_outside_does_not_count(case):
    x, inside, full, _ = case
    changed = np.array(x)
    for row, (h, w) in zip(changed, np.asarray(inside)):
        row[h:] = row[:, w:] = 1e30
    changed = resize_inside(jnp.asarray(changed), inside, full, SIZE)
    np.testing.assert_array_equal(changed, resize_inside(x, inside, full, SIZE))


def test_rows_are_those_of_the_whole(case):
    x, inside, full, _ = case
    rows = jnp.array([3, 18, 0, 3])
    found, whole = resize_rows(x, inside, full, rows, SIZE[1]), resize_inside(x, inside, full, SIZE)
    np.testing.assert_allclose(found, whole[:, rows], atol=1e-6)


def test_rows_of_padding_without_a_size_are_finite(case):
    x, *_ = case
    none = jnp.zeros((len(PAIRS), 2), jnp.int32)
    assert jnp.isfinite(resize_inside(x, none, none, SIZE)).all()


def test_large_maps_lose_no_place():
    """20,000 positions to 30,001: whole numbers of 31 bits, where float32 would be off by a pixel's part."""
    x = jnp.arange(20000, dtype=jnp.float32).reshape(1, 20000, 1, 1)
    found = resize_inside(x, jnp.array([[20000, 1]]), jnp.array([[30001, 1]]), (30001, 1)).ravel()
    wanted = ((np.arange(30001) + 0.5) * 20000 / 30001 - 0.5).clip(0, 19999)
    np.testing.assert_allclose(found, wanted, rtol=2e-7)
