"""Scores that a position gives to offsets around it, turned into scores of positions (PSANet, Zhao et al. 2018)."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def scores_of_positions(scores: Float[Array, "b h w i j"]) -> Float[Array, "b n m"]:
    """The score of every position for every other, from its scores for the offsets in a window centred on it.

    The over-complete mask of PSANet (ECCV 2018; github.com/hszhao/semseg, `lib/psa`). It takes only reshapes and
    slices: a gather would need an index for each pair, and its gradient would be a scatter.

    Args:
      scores: `[b, h, w, i, j]`; `scores[:, y, x, p, q]` is for the position `(y + p - i // 2, x + q - j // 2)`.

    Returns:
      `[b, n, m]`: scores of position n for position m, both of the `h * w` positions `y * w + x`. Pairs that are
      farther apart than the window reaches have 0, which the softmax sees, as in the original. Offsets off the map are
      dropped.

    Raises:
      ValueError: an even window, which has no centre.

    >>> x = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]).reshape(1, 1, 3, 1, 3)
    >>> scores_of_positions(x)[0].tolist()
    [[2.0, 3.0, 0.0], [4.0, 5.0, 6.0], [0.0, 7.0, 8.0]]
    """
    b, h, w, i, j = scores.shape
    if i % 2 == 0 or j % 2 == 0:
        raise ValueError(f"the window of scores [b, h, w, i, j] = {scores.shape} must be odd in height and width")
    columns = _aligned(scores.transpose(0, 1, 3, 2, 4))  # b h i w m
    rows = _aligned(columns.transpose(0, 3, 4, 1, 2))  # b w m h n
    return rows.transpose(0, 3, 1, 4, 2).reshape(b, h * w, h * w)


def _aligned(x):
    """`[..., n, i]` by offsets -> `[..., n, n]` by positions: `y[..., p, q] = x[..., p, q - p + i // 2]` or 0."""
    *lead, n, i = x.shape
    reach = n - 1 - i // 2
    # In rows of 2n offsets from -(n - 1) on, one row begins 2n - 1 places after the zero offset of the one before.
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 1) + [(reach, reach + 1, 0)])
    x = x.reshape(*lead, 2 * n * n)
    return x[..., n - 1 : n - 1 + n * (2 * n - 1)].reshape(*lead, n, 2 * n - 1)[..., :n]
