"""Pooling with PyTorch's conventions on `[b, h, w, c]`, with gradients that are fast on every backend."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.separable import apply_separable

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
    rows, columns = _windows(x, kernel, stride, padding, ceil_mode, dilation)
    x = _pad(x, (rows, columns), -jnp.inf)
    # One slice of both axes for each tap: XLA fuses their gradients, but not those of slices of slices.
    taps = [x[:, rows.tap(i), columns.tap(j)] for i in range(rows.kernel) for j in range(columns.kernel)]
    return _tree(lambda a, b: jnp.where(_beats(b, a), b, a), taps)


def max_pool_with_indices(
    x: Float[Array, "b h w c"], kernel: Pair, stride: Pair | None = None
) -> tuple[Float[Array, "b i j c"], Int[Array, "b i j c"]]:
    """Maximum over windows as `max_pool` (no padding), and where in the image it stands: `row * w + column`.

    Windows may overlap here, but not in `max_unpool`. The first of equal maxima counts.

    >>> [a.ravel().tolist() for a in max_pool_with_indices(jnp.arange(12.0).reshape(1, 3, 4, 1), 2)]
    [[5.0, 7.0], [5, 7]]
    """
    rows, columns = _windows(x, kernel, stride, 0, False)
    w = x.shape[2]
    taps = [(x[:, rows.tap(i), columns.tap(j)], i * w + j) for i in range(rows.kernel) for j in range(columns.kernel)]

    def larger(a, b):
        later = _beats(b[0], a[0])
        return tuple(jnp.where(later, b_part, a_part) for a_part, b_part in zip(a, b))

    y, offset = _tree(larger, taps)
    top, left = (jnp.arange(window.out) * window.stride for window in (rows, columns))
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
    return lax.pad(full, jnp.zeros((), y.dtype), [(0, 0, 0), (0, h - i * sh, 0), (0, w - j * sw, 0), (0, 0, 0)])


def avg_pool(
    x: Float[Array, "b h w c"],
    kernel: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    *,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Float[Array, "b i j c"]:
    """Mean over windows of `kernel` pixels every `stride` pixels (default: `kernel`), padded with zeros.

    The divisor counts the padding too unless `count_include_pad` is False; under `ceil_mode` it never counts pixels
    beyond the padding. Other arguments as in `max_pool`.

    >>> avg_pool(jnp.arange(12.0).reshape(1, 3, 4, 1), 2, 2).ravel().tolist()
    [2.5, 4.5]
    """
    dtype = x.dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
    axes = _windows(x, kernel, stride, padding, ceil_mode)
    sizes = x.shape[1:3]
    x = _pad(x, axes, 0.0)
    for axis, (window, n) in enumerate(zip(axes, sizes), start=1):
        taps = [window.tap(i) for i in range(window.kernel)]
        x = functools.reduce(jnp.add, [x[:, tap] if axis == 1 else x[:, :, tap] for tap in taps])
        first = np.arange(window.out) * window.stride - window.padding
        low, high = (-window.padding, n + window.padding) if count_include_pad else (0, n)
        share = 1.0 / (np.minimum(first + window.kernel, high) - np.maximum(first, low))
        x = x * jnp.asarray(share, x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
    return x.astype(dtype)


def adaptive_avg_pool(x: Float[Array, "b h w c"], size: Pair) -> Float[Array, "b i j c"]:
    """Mean over `size` bins; bin i covers `[floor(i n / size), ceil((i + 1) n / size))`, so bins may overlap.

    >>> adaptive_avg_pool(jnp.arange(12.0).reshape(1, 3, 4, 1), 2).ravel().tolist()
    [2.5, 4.5, 6.5, 8.5]
    """
    matrices = []
    for n, s in zip(x.shape[1:3], pair(size)):
        inside = np.array([[low <= j < high for j in range(n)] for low, high in _bins(n, s)])
        matrices.append((inside / inside.sum(axis=1, keepdims=True)).astype(np.float32))
    return apply_separable(x, *matrices)


def adaptive_max_pool(x: Float[Array, "b h w c"], size: Pair) -> Float[Array, "b i j c"]:
    """Maximum over the same bins as `adaptive_avg_pool`; equal maxima share the gradient.

    >>> adaptive_max_pool(jnp.arange(12.0).reshape(1, 3, 4, 1), 2).ravel().tolist()
    [5.0, 7.0, 9.0, 11.0]
    """
    for axis, s in enumerate(pair(size), start=1):
        bins = _bins(x.shape[axis], s)
        x = jnp.stack([lax.slice_in_dim(x, low, high, axis=axis).max(axis) for low, high in bins], axis)
    return x


def _bins(n, size):
    return [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]


def _beats(b, a):
    return (b > a) | (b != b)


def _tree(choose, taps):
    """All taps reduced by `choose(a, b)`, neighbours first, which keeps the order in which the first maximum counts."""
    while len(taps) > 1:
        taps = [choose(*taps[i : i + 2]) if len(taps) > i + 1 else taps[i] for i in range(0, len(taps), 2)]
    return taps[0]


class _Window(NamedTuple):
    """The windows along one axis; `after` is the padding at the end, negative if the last pixels are in no window."""

    kernel: int
    stride: int
    padding: int
    out: int
    after: int
    dilation: int

    def tap(self, i):
        """The slice that holds element `i` of every window.

        Shifted slices and elementwise work take the place of `lax.reduce_window`: XLA fuses them, and their gradient
        runs many times faster on CPU than that of a window maximum.
        """
        first = i * self.dilation
        return slice(first, first + (self.out - 1) * self.stride + 1, self.stride)


def _windows(x, kernel, stride, padding, ceil_mode, dilation=1):
    """A `_Window` for the rows and one for the columns of `x`."""
    windows = []
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
        windows.append(_Window(k, s, p, out, (out - 1) * s + span - n - p, d))
    return windows


def _pad(x, windows, fill):
    """`x` cut or padded with `fill` to exactly the pixels of the windows."""
    return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((w.padding, w.after, 0) for w in windows), (0, 0, 0)])
