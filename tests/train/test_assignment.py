"""Matchings against SciPy's on 1,000 random problems, padded; ties, few queries, costs that are no numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from attnseg_jax.train.assignment import assign

run = jax.jit(assign)


@pytest.mark.parametrize(
    "b, q, n, ties",
    [(300, 9, 5, False), (300, 6, 11, False), (200, 7, 7, True), (100, 4, 9, True), (100, 30, 12, True)],
)
def test_as_scipy(b, q, n, ties):
    """The same pairs, or with ties the same cost; what is no segment has costs that would tempt."""
    rng = np.random.default_rng(q)
    costs = rng.standard_normal((b, q, n)).astype(np.float32) * 10
    if ties:
        costs = np.round(costs / 10)
    present = rng.random((b, n)) < rng.random((b, 1))
    found = np.asarray(run(jnp.asarray(np.where(present[:, None], costs, -1e6)), jnp.asarray(present)))
    assert (found[~present] == q).all()
    for i in range(b):
        segments = np.flatnonzero(present[i])
        queries, columns = linear_sum_assignment(costs[i][:, segments])
        matched = np.flatnonzero(found[i] < q)
        assert len(matched) == len({*found[i][matched]}) == min(q, len(segments))
        if ties:
            assert costs[i][found[i][matched], matched].sum() == costs[i][queries, segments[columns]].sum()
        else:
            assert {*zip(found[i][matched], matched)} == {*zip(queries, segments[columns])}


def test_costs_that_are_no_numbers_end():
    costs = jnp.full((100, 4, 9), jnp.nan).at[0].set(jnp.inf).at[1].set(-jnp.inf).at[2, :, :4].set(3e38)
    found = np.asarray(run(costs, jnp.ones((100, 9), bool)))
    assert ((found < 4).sum(1) == 4).all()
