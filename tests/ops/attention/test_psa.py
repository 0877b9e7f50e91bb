"""Scores by offsets become scores by positions, pair by pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.ops.attention.psa import scores_of_positions

RNG = np.random.default_rng(0)


# Windows within the map, of exactly its offsets, beyond them, and one of each; maps of one row, column or pixel.
@pytest.mark.thorough
@pytest.mark.parametrize(
    "size", [(4, 5, 3, 5), (4, 5, 7, 9), (3, 2, 9, 7), (4, 3, 1, 11), (1, 4, 3, 3), (4, 1, 5, 1), (1, 1, 3, 1)]
)
def test_pair_by_pair(size):
    h, w, i, j = size
    x = RNG.standard_normal((2, *size)).astype(np.float32)
    expected = np.zeros((2, h, w, h, w))
    for y0, x0, y1, x1 in np.ndindex(h, w, h, w):
        p, q = y1 - y0 + i // 2, x1 - x0 + j // 2
        if 0 <= p < i and 0 <= q < j:
            expected[:, y0, x0, y1, x1] = x[:, y0, x0, p, q]
    np.testing.assert_array_equal(scores_of_positions(jnp.asarray(x)), expected.reshape(2, h * w, h * w))


def test_offsets_within_the_map_have_gradient_one_and_others_none():
    x = jnp.asarray(RNG.standard_normal((2, 3, 4, 7, 5)), jnp.float32)
    gradient = np.asarray(jax.grad(lambda x: scores_of_positions(x).sum())(x))
    for y, x_, p, q in np.ndindex(3, 4, 7, 5):
        inside = 0 <= y + p - 3 < 3 and 0 <= x_ + q - 2 < 4
        assert (gradient[:, y, x_, p, q] == inside).all()


def test_even_windows_have_no_centre():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5, 2\) must be odd"):
        scores_of_positions(jnp.ones((2, 3, 4, 5, 2)))
