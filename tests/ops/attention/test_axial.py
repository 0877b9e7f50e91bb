"""Tables of offsets, similarities and means along one axis, one pair of positions at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.ops.attention import axial

RNG = np.random.default_rng(0)
B, H, W, A, D, E = 2, 5, 3, 4, 2, 6


def draw(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("size", [1, 3, 5, 6, 9])
def test_a_table_fits_any_size(size):
    """Of a table for 5: offsets that occur keep their vector; a larger map reads between them."""
    table = draw(D, 9)
    found = np.asarray(axial.fit_offsets(table, size))
    assert found.shape == (D, 2 * size - 1)
    for offset in range(1 - size, size):
        at = offset if size <= 5 else offset * 4 / (size - 1)
        low, part = int(np.floor(at)), at - np.floor(at)
        ends = np.asarray(table)[:, [low + 4, min(low + 5, 8)]]
        np.testing.assert_allclose(found[:, offset + size - 1], (1 - part) * ends[:, 0] + part * ends[:, 1], atol=1e-5)


def test_a_table_needs_a_middle():
    with pytest.raises(ValueError, match="4 offsets has no offset 0"):
        axial.fit_offsets(jnp.ones((D, 4)), 3)


def test_equals_the_oracle():
    q, k, v = draw(B, H, W, A, D), draw(B, H, W, A, D), draw(B, H, W, A, E)
    tables = [draw(width, 2 * H - 1) for width in (D, D, E)]
    grids = [axial.offset_grid(table) for table in tables]
    weights = draw(B, W, A, H, H)
    scores = axial.axial_scores(q, k, *grids[:2])
    means = axial.axial_average(weights, v, grids[2])
    expected, q, k, v, weights = (np.asarray(t, np.float64) for t in (np.zeros(scores.shape), q, k, v, weights))
    to_query, to_key, to_value = (np.asarray(table, np.float64) for table in tables)
    content, position = np.zeros(v.shape), np.zeros(v.shape)
    for b, x, a, i, j in np.ndindex(weights.shape):
        expected[0, b, x, a, i, j] = q[b, i, x, a] @ k[b, j, x, a]
        expected[1, b, x, a, i, j] = q[b, i, x, a] @ to_query[:, i - j + H - 1]
        expected[2, b, x, a, i, j] = k[b, j, x, a] @ to_key[:, j - i + H - 1]
        content[b, i, x, a] += weights[b, x, a, i, j] * v[b, j, x, a]
        position[b, i, x, a] += weights[b, x, a, i, j] * to_value[:, i - j + H - 1]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(means[0], content, atol=1e-5)
    np.testing.assert_allclose(means[1], position, atol=1e-5)


def test_keys():
    columns, rows = (np.asarray(axial.axial_keys((H, W), width=width)) for width in (False, True))
    for y, x in np.ndindex(H, W):
        assert columns[y * W + x].tolist() == [i * W + x for i in range(H)]
        assert rows[y * W + x].tolist() == [y * W + j for j in range(W)]


def test_vmap_equals_a_loop():
    q, v, weights = draw(3, B, H, W, A, D), draw(3, B, H, W, A, E), draw(3, B, W, A, H, H)
    grid, wide = axial.offset_grid(draw(D, 2 * H - 1)), axial.offset_grid(draw(E, 2 * H - 1))

    def function(q, v, weights):
        return axial.axial_scores(q, q, grid, grid), *axial.axial_average(weights, v, wide)

    looped = [function(*parts) for parts in zip(q, v, weights)]
    for found, expected in zip(jax.vmap(function)(q, v, weights), zip(*looped), strict=True):
        np.testing.assert_allclose(found, jnp.stack(expected), atol=1e-6)


def test_half_precision_keeps_float32_scores():
    q, v = draw(B, H, W, A, D).astype(jnp.bfloat16), draw(B, H, W, A, E).astype(jnp.bfloat16)
    grid, wide = axial.offset_grid(draw(D, 2 * H - 1)), axial.offset_grid(draw(E, 2 * H - 1))
    assert axial.axial_scores(q, q, grid, grid).dtype == jnp.float32
    assert {y.dtype for y in axial.axial_average(draw(B, W, A, H, H), v, wide)} == {jnp.dtype(jnp.bfloat16)}
