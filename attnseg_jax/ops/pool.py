"""Pooling with PyTorch's conventions on `[b, h, w, c]`, with gradients that are fast on every backend."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.axis import Axis, pad
from attnseg_jax.ops.separable import apply_separable
from attnseg_jax.ops.symbolic import numpy_of

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """One number for both axes, or one for each: `(height, width)`."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def max_pool(
    x: Float[Array, "b h w c"],
    kernel: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    *,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Float[Array, "b i j c"]:
    """Maximum over windows of `kernel` pixels every `stride` pixels (default: `kernel`), padded with -inf.

    `padding` is symmetric and at most half the kernel; the pixels of a window stand `dilation` apart; `ceil_mode`
    keeps a last window that is only partly inside. As in PyTorch the first maximum of a window takes the whole
    gradient, and a window with a NaN gives NaN.

    >>> max_pool(jnp.arange(12.0).reshape(1, 3, 4, 1), 2, 2).ravel().tolist()
    [5.0, 7.0]
    """
    rows, columns = _axes(x, kernel, stride, padding, ceil_mode, dilation)
    x = pad(x, (rows.sides, columns.sides), -jnp.inf)
    # One slice of both axes for each tap: XLA fuses their gradients, but not those of slices of slices.
    taps = [x[:, rows.tap(i), columns.tap(j)] for i in range(rows.taps) for j in range(columns.taps)]
    return _tree(lambda a, b: jnp.where(_beats(b, a), b, a), taps)


def max_pool_with_indices(
    x: Float[Array, "b h w c"], kernel: Pair, stride: Pair | None = None
) -> tuple[Float[Array, "b i j c"], Int[Array, "b i j c"]]:
    """Maximum over windows as `max_pool` (no padding), and where in the image it stands: `row * w + column`.

    Windows may overlap here, but not in `max_unpool`. The first of equal maxima counts.

    >>> [a.ravel().tolist() for a in max_pool_with_indices(jnp.arange(12.0).reshape(1, 3, 4, 1), 2)]
    [[5.0, 7.0], [5, 7]]
    """
    rows, columns = _axes(x, kernel, stride)
    w = x.shape[2]
    taps = [(x[:, rows.tap(i), columns.tap(j)], i * w + j) for i in range(rows.taps) for j in range(columns.taps)]

    def larger(a, b):
        later = _beats(b[0], a[0])
        return tuple(jnp.where(later, b_part, a_part) for a_part, b_part in zip(a, b))

    y, offset = _tree(larger, taps)
    top, left = (jnp.arange(axis.out) * axis.stride for axis in (rows, columns))
    return y, offset + (top.reshape(1, -1, 1, 1) * w + left.reshape(1, 1, -1, 1))


def max_unpool(
    y: Float[Array, "b i j c"], indices: Int[Array, "b i j c"], size: Pair, kernel: Pair, stride: Pair | None = None
) -> Float[Array, "b h w c"]:
    """Put every value where the maximum of its window stood in an image of `size`, zeros elsewhere.

    `indices` are those `max_pool_with_indices` gave for an image of that size and the same windows. Windows must not
    overlap (`stride` at least `kernel`): a pixel then has one window at most, and no scatter is needed, neither here
    nor for the gradient. A value whose index lies beyond its own window and the gap after it is dropped.

    Raises:
      ValueError: windows that overlap, or whose number at `size` is not that of `y`.

    >>> max_unpool(jnp.ones((1, 1, 2, 1)), jnp.array([5, 2]).reshape(1, 1, 2, 1), (2, 4), 2).ravel().tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    """
    b, i, j, c = y.shape
    (h, w), kernels, (sh, sw) = pair(size), pair(kernel), pair(kernel if stride is None else stride)
    if sh < kernels[0] or sw < kernels[1]:
        raise ValueError(f"un-pooling windows of {kernels} every {(sh, sw)} pixels overlap")
    if (i, j) != ((h - kernels[0]) // sh + 1, (w - kernels[1]) // sw + 1):
        raise ValueError(f"{(i, j)} values are not the windows of {kernels} every {(sh, sw)} of {(h, w)} pixels")
    rows, columns = jnp.arange(i * sh).reshape(1, i, sh, 1, 1, 1), jnp.arange(j * sw).reshape(1, 1, 1, j, sw, 1)
    here = indices.reshape(b, i, 1, j, 1, c) == rows * w + columns
    full = jnp.where(here, y.reshape(b, i, 1, j, 1, c), 0).reshape(b, i * sh, j * sw, c)
    return pad(full, ((0, h - i * sh), (0, w - j * sw)))


def adaptive_avg_pool(x: Float[Array, "b h w c"], size: Pair) -> Float[Array, "b i j c"]:
    """Mean over `size` bins; bin i covers `[floor(i n / size), ceil((i + 1) n / size))`, so bins may overlap.

    >>> adaptive_avg_pool(jnp.arange(12.0).reshape(1, 3, 4, 1), 2).ravel().tolist()
    [2.5, 4.5, 6.5, 8.5]
    """
    matrices = []
    for n, s in zip(x.shape[1:3], pair(size)):
        j = numpy_of(n).arange(n)
        inside = numpy_of(n).stack([(j >= i * n // s) & (j < ((i + 1) * n + s - 1) // s) for i in range(s)])
        matrices.append((inside / inside.sum(axis=1, keepdims=True)).astype(np.float32))
    return apply_separable(x, *matrices)


def centred_avg_pool(x: Float[Array, "b h w c"], kernel: int, stride: int) -> Float[Array, "b i j c"]:
    """Mean over a window of an odd `kernel` around every `stride`-th pixel; zeros beyond the map count.

    PyTorch's `AvgPool2d(kernel, stride, padding=kernel // 2)`.

    >>> centred_avg_pool(9 * jnp.arange(1.0, 6.0).reshape(1, 1, 5, 1), 3, 2).ravel().round().tolist()
    [3.0, 9.0, 9.0]
    """
    matrices = []
    for n in x.shape[1:3]:
        xp = numpy_of(n)
        centres = xp.arange((n - 1) // stride + 1) * stride
        matrices.append((abs(centres[:, None] - xp.arange(n)[None]) <= kernel // 2).astype(np.float32) / kernel)
    return apply_separable(x, *matrices)


def _beats(b, a):
    return (b > a) | (b != b)


def _tree(choose, taps):
    """All taps reduced by `choose(a, b)`, neighbours first, which keeps the order in which the first maximum counts."""
    while len(taps) > 1:
        taps = [choose(*taps[i : i + 2]) if len(taps) > i + 1 else taps[i] for i in range(0, len(taps), 2)]
    return taps[0]


def _axes(x, kernel, stride=None, padding=0, ceil_mode=False, dilation=1):
    """The windows along the rows and the columns of `x`, padded or cut to exactly the pixels that they read."""
    axes = []
    strides = pair(kernel if stride is None else stride)
    for n, k, s, p, d in zip(x.shape[1:3], pair(kernel), strides, pair(padding), pair(dilation)):
        if min(k, s, d) < 1 or not 0 <= 2 * p <= k:
            raise ValueError(
                f"needs kernel, stride, dilation >= 1 and padding at most half the kernel, got {k}, {s}, {d}, {p}"
            )
        span = (k - 1) * d + 1
        out = (n + 2 * p - span + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (out - 1) * s >= n + p:
            out -= 1  # a window that would start in the right padding does not count
        if out < 1:
            raise ValueError(f"a window of {span} does not fit into {n} pixels with padding {p}")
        axes.append(Axis(k, s, d, (p, (out - 1) * s + span - n - p), n))
    return axes
