"""Windows, shifts, masks and indices, each pixel by its own coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.ops.attention import window

SIZES = [((7, 11), (3, 4), (1, 2)), ((6, 5), (2, 5), (1, 0)), ((5, 9), (5, 3), (0, 1)), ((2, 3), (4, 4), (0, 0))]


def tiles(size, shape, shift):
    """For every pixel of the padded map: its window and its place there, after rolling by `shift`."""
    padded = [-(-n // w) * w for n, w in zip(size, shape)]
    for y, x in np.ndindex(*padded):
        rolled = [(p - s) % n for p, s, n in zip((y, x), shift, padded)]
        tile, place = [r // w for r, w in zip(rolled, shape)], [r % w for r, w in zip(rolled, shape)]
        # Which end of each axis a pixel of the last window comes from.
        side = tuple(p < s for p, s in zip((y, x), shift))
        yield (y, x), tile[0] * (padded[1] // shape[1]) + tile[1], place[0] * shape[1] + place[1], side


@pytest.mark.parametrize("size, shape, shift", SIZES)
def test_partition_and_merge(size, shape, shift):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    windows = np.asarray(window.partition(jnp.asarray(x), shape, shift))
    seen = 0
    for (y, x_), tile, place, _ in tiles(size, shape, shift):
        inside = y < size[0] and x_ < size[1]
        np.testing.assert_array_equal(windows[:, tile, place], x[:, y, x_] if inside else np.zeros((2, 3)))
        seen += 1
    assert seen == windows.shape[1] * windows.shape[2]
    np.testing.assert_array_equal(window.merge(jnp.asarray(windows), size, shape, shift), x)


@pytest.mark.parametrize("size, shape, shift", SIZES)
def test_mask_and_keys(size, shape, shift):
    mask, keys = (np.asarray(f(size, shape, shift)) for f in (window.window_mask, window.window_keys))
    where = {}
    for at, tile, place, side in tiles(size, shape, shift):
        where.setdefault(tile, {})[place] = (at, side)
    assert mask.shape == (len(where), np.prod(shape), np.prod(shape))
    for tile, places in where.items():
        for place, (at, side) in places.items():
            np.testing.assert_array_equal(mask[tile, place], [places[i][1] == side for i in range(len(places))])
            if at[0] < size[0] and at[1] < size[1]:
                positions = [places[i][0] for i in range(len(places))]
                expected = [y * size[1] + x if y < size[0] and x < size[1] else -1 for y, x in positions]
                np.testing.assert_array_equal(keys[at[0] * size[1] + at[1]], expected)
    assert mask.all() == (not any(shift))


def test_relative_index():
    index = window.relative_index((3, 4))
    offsets = {}
    for n, m in np.ndindex(12, 12):
        offset = (n // 4 - m // 4, n % 4 - m % 4)
        assert index[n, m] == (offset[0] + 2) * 7 + offset[1] + 3
        offsets.setdefault(offset, set()).add(index[n, m])
    assert len(offsets) == 5 * 7 and sorted(i for (i,) in offsets.values()) == list(range(35))


def test_vmap_equals_a_loop():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, 5, 7, 4)), jnp.float32)
    cut = jax.vmap(lambda x: window.partition(x, 3, 1))(x)
    np.testing.assert_array_equal(cut, jnp.stack([window.partition(t, 3, 1) for t in x]))
    np.testing.assert_array_equal(jax.vmap(lambda t: window.merge(t, (5, 7), 3, 1))(cut), x)
