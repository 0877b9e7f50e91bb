"""Groups of positions, by where every position goes."""

import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.ops.attention import interlaced

SIZE, FACTORS, PADDED = (5, 7), (2, 3), (6, 9)
TOP, LEFT = 0, 1  # one row is added below, one column on each side


def pad(x, value=0):
    return interlaced.pad_to_multiple(x, FACTORS, value)


def together(p, q, reach):
    """Whether two positions of the padded map are in one group."""
    return all(a % f == b % f if reach == "far" else a // f == b // f for a, b, f in zip(p, q, FACTORS))


def test_padding_surrounds_the_map():
    x = jnp.arange(1, 141).reshape(2, *SIZE, 2)
    padded = np.asarray(pad(x))
    assert padded.shape == (2, *PADDED, 2)
    np.testing.assert_array_equal(padded[:, TOP : TOP + 5, LEFT : LEFT + 7], x)
    assert (padded != 0).sum() == x.size
    np.testing.assert_array_equal(interlaced.crop_to_size(padded, SIZE), x)


@pytest.mark.parametrize("reach", interlaced.REACHES)
def test_groups_hold_the_positions_that_belong_together(reach):
    positions = np.stack(np.mgrid[:6, :9], -1)
    groups = np.asarray(interlaced.split(jnp.asarray(positions)[None], FACTORS, reach))
    assert groups.shape == ((6, 3, 3, 2) if reach == "far" else (9, 2, 3, 2))
    for group in groups.reshape(len(groups), -1, 2):
        first = group[0]
        expected = [p for p in positions.reshape(-1, 2) if together(p, first, reach)]
        np.testing.assert_array_equal(group, expected)  # in reading order


@pytest.mark.parametrize("reach", interlaced.REACHES)
def test_join_undoes_split(reach):
    x = jnp.arange(2 * 54 * 4).reshape(2, *PADDED, 4)
    groups = interlaced.split(x, FACTORS, reach)
    np.testing.assert_array_equal(interlaced.join(groups, PADDED, FACTORS, reach), x)


@pytest.mark.parametrize("reach", interlaced.REACHES)
def test_member_positions(reach):
    found = np.asarray(interlaced.member_positions(SIZE, FACTORS, reach))
    assert found.shape == (35, 9 if reach == "far" else 6)
    for n, row in enumerate(found):
        own = (n // 7 + TOP, n % 7 + LEFT)
        members = [p for p in np.ndindex(PADDED) if together(p, own, reach)]
        expected = [(y - TOP) * 7 + x - LEFT if TOP <= y < 5 and LEFT <= x < 8 else -1 for y, x in members]
        np.testing.assert_array_equal(row, expected)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="5x7 positions is no multiple of 2x3: pad it first"):
        interlaced.split(jnp.zeros((1, 5, 7, 2)), FACTORS, "far")
    with pytest.raises(ValueError, match="unknown reach 'long', known: far, near"):
        interlaced.split(jnp.zeros((1, 6, 9, 2)), FACTORS, "long")
