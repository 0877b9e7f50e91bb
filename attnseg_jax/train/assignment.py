"""Which query is matched with which segment."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from optax.assignment import hungarian_algorithm

# Costs beyond it are no better or worse than this.
_LARGEST = 1e9


def assign(costs: Float[Array, "b q n"], present: Bool[Array, "b n"]) -> Int[Array, "b n"]:
    """The query of each segment by the matching of least cost, one to one; q where a segment has none.

    As many segments are matched as there are queries for. Which of several best matchings it is is not said.

    Args:
      costs: of each query for each segment; those of a segment that is none do not matter. NaN counts as 0.
      present: whether it is one.

    >>> costs = jnp.array([[[0.0, 1.0, 9.0], [5.0, 7.0, 9.0]]])
    >>> assign(costs, jnp.array([[True, True, False]])).tolist()
    [[1, 0, 2]]
    """
    return jax.vmap(_assign)(costs, present)


def _assign(costs: Float[Array, "q n"], present: Bool[Array, " n"]) -> Int[Array, " n"]:
    q, n = costs.shape
    # The search would not end among numbers that are none.
    costs = jnp.nan_to_num(costs.astype(jnp.float32)).clip(-_LARGEST, _LARGEST).T
    # What is no segment costs the same for every query, and more than any segment: where queries are few it comes last.
    most = jnp.where(present[:, None], costs, -_LARGEST).max()
    costs = jnp.where(present[:, None], costs, most + 1 + 1e-3 * jnp.abs(most))
    rows, columns = hungarian_algorithm(costs)
    matching = jnp.full(n, q, jnp.int32).at[rows].set(columns.astype(jnp.int32))
    return jnp.where(present, matching, q)
