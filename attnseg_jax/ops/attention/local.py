"""Attention to the pixels around each pixel, without copies of their channels.

Stand-alone self-attention (Ramachandran et al. 2019, arXiv:1906.05909) and neighbourhood attention (Hassani et al.
2022, arXiv:2204.07143) with zero weight outside the image; with class scores as values it is a learned form of the
pixel-adaptive refinement of Araslanov & Roth 2020 (arXiv:2005.08104).

A loop over the `s = kernel ** 2` neighbours shifts the whole map by one of them at a time, forward and backward, so
that memory is `O(n s)` for the weights and `O(n c)` for the rest. Neighbours are in reading order.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.linear_map import bilinear


def local_weights(
    q: Float[Array, "b h w a d"],
    k: Float[Array, "b h w a d"],
    *,
    kernel: int,
    dilation: int = 1,
    scale: float | None = None,
) -> Float[Array, "s b h w a"]:
    """Softmax of `scale * q . k` over the `kernel x kernel` pixels around each pixel, `dilation` pixels apart.

    Args:
      kernel: pixels on a side of the neighbourhood, odd.
      dilation: distance of neighbours in pixels.
      scale: factor of the scores, by default `d ** -0.5`.

    Returns:
      Float32 `[s, b, h, w, a]`; the `s` weights of a pixel sum to 1, those outside the image are 0.

    Raises:
      ValueError: shapes that differ, an even kernel, a dilation below 1.

    >>> x = jnp.zeros((1, 2, 4, 1, 5))
    >>> local_weights(x, x, kernel=3)[:, 0, 0, 0, 0].tolist()
    [0.0, 0.0, 0.0, 0.0, 0.25, 0.25, 0.0, 0.25, 0.25]
    """
    if q.ndim != 5 or q.shape != k.shape:
        raise ValueError(f"queries and keys [b, h, w, a, d] do not fit: {q.shape} and {k.shape}")
    h, w, _, d = q.shape[1:]
    q = q.astype(jnp.float32) * (d**-0.5 if scale is None else scale)
    scores = _operations(kernel, dilation)[0](q, k.astype(jnp.float32))
    inside = (local_keys((h, w), kernel, dilation) >= 0).T.reshape(-1, 1, h, w, 1)
    scores = jnp.where(inside, scores, -jnp.inf)
    # XLA's gradient on a CPU is much faster over two axes than over five.
    return jax.nn.softmax(scores.reshape(scores.shape[0], -1), axis=0).reshape(scores.shape)


def local_average(
    weights: Float[Array, "s b h w a"], v: Float[Array, "b h w a e"], *, dilation: int = 1
) -> Float[Array, "b h w a e"]:
    """Sum of the values around each pixel times its weights, such as those of `local_weights`.

    Args:
      weights: `[s, b, h, w, a]`, `s` the square of an odd number; those outside the image meet zeros.
      dilation: distance of neighbours in pixels.

    Returns:
      `[b, h, w, a, e]` in the dtype of `v`, accumulated in float32.

    Raises:
      ValueError: shapes that do not fit together, a dilation below 1.

    >>> one = jnp.full((9, 1, 1, 4, 1), 1.0)
    >>> local_average(one, jnp.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 1, 4, 1, 1), dilation=2).ravel().tolist()
    [5.0, 10.0, 5.0, 10.0]
    """
    kernel = math.isqrt(weights.shape[0])
    if v.ndim != 5 or weights.shape != (kernel**2, *v.shape[:4]):
        raise ValueError(f"weights [s, b, h, w, a] and values [b, h, w, a, e] do not fit: {weights.shape}, {v.shape}")
    average = _operations(kernel, dilation)[1]
    return average(weights.astype(jnp.float32), v.astype(jnp.float32)).astype(v.dtype)


def local_keys(size: tuple[int, int], kernel: int, dilation: int = 1) -> Int[Array, "n s"]:
    """Position `y * width + x` of each pixel's neighbours on a map of `size`, -1 outside it.

    >>> local_keys((1, 3), 3)[:, 3:6].tolist()
    [[-1, 0, 1], [0, 1, 2], [1, 2, -1]]
    """
    rows, columns = (jnp.arange(n)[:, None] + jnp.asarray(_offsets(kernel, dilation))[None] for n in size)
    y, x = rows[:, None, :, None], columns[None, :, None, :]
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return jnp.where(inside, y * size[1] + x, -1).reshape(size[0] * size[1], kernel**2)


def _offsets(kernel, dilation):
    if kernel < 1 or kernel % 2 == 0 or dilation < 1:
        raise ValueError(f"needs an odd kernel and a dilation of at least 1, got {kernel} and {dilation}")
    return dilation * (np.arange(kernel) - kernel // 2)


@functools.lru_cache(maxsize=1024)
def _operations(kernel, dilation):
    """Scores of queries and keys, float32 `[s, b, h, w, a]` and 0 outside the image, and averages of values.

    They are each other's gradients, which keeps both from holding a copy of the channels for each neighbour, as
    automatic differentiation would.
    """
    margin = dilation * (kernel // 2)
    # Where the shifted maps begin in the padded one.
    steps = _offsets(kernel, dilation) + margin
    corners = np.array([(i, j) for i in steps for j in steps], np.int32)

    def scores(q, k):
        sums = _heads(*q.shape[3:]).T
        q, k = _joined(q), _pad(_joined(k), margin)
        return lax.map(lambda corner: _dot(q * _shifted(k, corner, q.shape), sums), corners)

    def average(weights, v):
        values, copies = _joined(v), _heads(*v.shape[3:])
        padded = _pad(values, margin)

        def add(total, item):
            corner, weight = item
            return total + _dot(weight, copies) * _shifted(padded, corner, values.shape), None

        return lax.scan(add, jnp.zeros_like(values), (corners, weights))[0].reshape(v.shape)

    def transposed(weights):
        """For each pixel the weights that the pixels around it give to it."""

        def given(item):
            corner, weight = item
            return _shifted(_pad(weight, margin), corner, weight.shape)

        return lax.map(given, (corners, weights[::-1]))

    scores_of = bilinear(scores, lambda k, g: average(g, k), lambda q, g: average(transposed(g), q))
    average_of = bilinear(average, lambda v, g: scores(g, v), lambda weights, g: average(transposed(weights), g))
    return scores_of, average_of


def _pad(x, margin):
    return jnp.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)])


def _shifted(padded, corner, shape):
    return lax.dynamic_slice(padded, (0, corner[0], corner[1], 0), shape)


def _joined(x):
    return x.reshape(*x.shape[:3], -1)


def _heads(heads, width):
    """`[a, a * width]` that copies a number of each head to its channels; transposed it sums them.

    On a CPU the product is much faster than a sum over, or a broadcast to, a few channels.
    """
    return jnp.asarray(np.kron(np.eye(heads), np.ones((1, width))), jnp.float32)


def _dot(x, matrix):
    return jnp.matmul(x, matrix, precision=lax.Precision.HIGHEST)
