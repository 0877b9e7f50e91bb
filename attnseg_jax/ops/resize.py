"""Resizing images and feature maps with PyTorch's conventions (`torch.nn.functional.interpolate`)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from attnseg_jax.ops.pool import adaptive_avg_pool
from attnseg_jax.ops.separable import apply_separable
from attnseg_jax.ops.symbolic import is_symbolic

METHODS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


def resize(
    x: Shaped[Array, "b h w c"],
    size: tuple[int, int],
    method: str = "bilinear",
    *,
    align_corners: bool = False,
    antialias: bool = False,
    scale: float | tuple[float, float] | None = None,
) -> Shaped[Array, "b i j c"]:
    """Resize height and width to `size` with the results of PyTorch's `interpolate`; `jax.image.resize` differs.

    Args:
      x: `[b, h, w, c]`; of any dtype for the two nearest methods, floating for the others.
      size: output height and width in pixels.
      method: 'nearest', 'nearest-exact', 'bilinear', 'bicubic' or 'area' (adaptive average pooling).
      align_corners: bilinear and bicubic only: corner pixels map to corner pixels, instead of half-pixel centres.
      antialias: bilinear and bicubic only: widen the kernel when shrinking; without, shrinking skips input pixels.
      scale: ratio of output to input size that coordinates are computed with, instead of `size` over the input's size;
        PyTorch's `scale_factor` without `recompute_scale_factor`. Ignored under `align_corners`.

    Returns:
      `[b, *size, c]` in the dtype of `x`, interpolated in float32.

    Raises:
      ValueError: an unknown method, a size below 1, or an option the method does not have.

    >>> x = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    >>> resize(x, (1, 4)).ravel().tolist()
    [0.0, 0.25, 0.75, 1.0]
    >>> resize(x, (1, 3), align_corners=True).ravel().tolist()
    [0.0, 0.5, 1.0]
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}, known: {', '.join(METHODS)}")
    symbolic = is_symbolic(*x.shape[1:3], *size)
    if x.ndim != 4 or len(size) != 2 or (not symbolic and min(size) < 1):
        raise ValueError(f"needs x [b, h, w, c] and a size of two positive numbers, got {x.shape} and {size}")
    if method not in ("bilinear", "bicubic") and (align_corners or antialias):
        raise ValueError(f"align_corners and antialias are for bilinear and bicubic, not {method!r}")
    if align_corners and antialias:
        raise ValueError("antialias works with half-pixel centres only, not with align_corners")
    if method == "area":
        return adaptive_avg_pool(x, size)
    scales = scale if isinstance(scale, tuple) else (scale, scale)
    if symbolic:
        if scale or antialias:
            raise ValueError("scale and antialias are for sizes that are known")
        return _resize_symbols(x, size, method, align_corners)
    # Input pixels per output pixel.
    steps = [1 / s if s else n / o for s, n, o in zip(scales, x.shape[1:3], size)]
    if method.startswith("nearest"):
        for axis, (step, out) in enumerate(zip(steps, size), start=1):
            index = _nearest(x.shape[axis], out, step, 0.5 if method == "nearest-exact" else 0.0)
            x = x if _is_identity(index, x.shape[axis]) else jnp.take(x, index, axis=axis)
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{method!r} needs floating numbers, not {x.dtype}; use a nearest method for labels")
    matrices = [
        interpolation_matrix(n, o, method, align_corners=align_corners, antialias=antialias, step=step)
        for n, o, step in zip(x.shape[1:3], size, steps)
    ]
    return apply_separable(x, *(None if np.array_equal(m, np.eye(len(m))) else m for m in matrices))


def interpolation_matrix(
    n: int, out: int, method: str, *, align_corners: bool = False, antialias: bool = False, step: float | None = None
) -> np.ndarray:
    """Weights float32 `[out, n]` of the input positions in each output position, along one axis.

    >>> interpolation_matrix(2, 4, "bilinear").tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    step = n / out if step is None else step
    if antialias:
        return antialiased_matrix(n, out, method, step).astype(np.float32)
    position = np.arange(out, dtype=np.float64)
    if align_corners:
        source = position * ((n - 1) / (out - 1) if out > 1 else 0.0)
    else:
        source = (position + 0.5) * step - 0.5
    if method == "bilinear":
        source = source.clip(0, n - 1)
    base = np.floor(source).astype(np.int64)
    weights = np.zeros((out, n))
    for tap in (0, 1) if method == "bilinear" else (-1, 0, 1, 2):
        kernel = _KERNELS[method][0](source - (base + tap), -0.75)
        # Taps beyond the border repeat the border pixel.
        np.add.at(weights, (np.arange(out), (base + tap).clip(0, n - 1)), kernel)
    return weights.astype(np.float32)


def _resize_symbols(x, size, method, align_corners):
    """`resize` between sizes that are symbols, whose weights are computed where the program runs."""
    pairs = list(zip(x.shape[1:3], size))
    if method.startswith("nearest"):
        for axis, (n, out) in enumerate(pairs, start=1):
            step = jnp.asarray(n, jnp.float32) / jnp.asarray(out, jnp.float32)
            place = (jnp.arange(out, dtype=jnp.float32) + (0.5 if method == "nearest-exact" else 0.0)) * step
            index = jnp.minimum(jnp.floor(place).astype(jnp.int32), n - 1)
            x = x if n == out else jnp.take(x, index, axis=axis)
        return x
    matrices = (None if n == out else _symbolic_matrix(n, out, method, align_corners) for n, out in pairs)
    return apply_separable(x, *matrices)


def _symbolic_matrix(n, out, method, align_corners):
    """`interpolation_matrix` of symbols; positions are fractions of whole numbers, so that nothing is lost."""
    i = jnp.arange(out)
    above, below = (i * (n - 1), jnp.maximum(out - 1, 1)) if align_corners else ((2 * i + 1) * n - out, 2 * out)
    if method == "bilinear":
        above = jnp.clip(above, 0, below * (n - 1))
    base, rest = jnp.floor_divide(above, below), jnp.remainder(above, below)
    fraction = rest.astype(jnp.float32) / jnp.asarray(below, jnp.float32)
    weights = 0.0
    for tap in (0, 1) if method == "bilinear" else (-1, 0, 1, 2):
        there = jnp.clip(base + tap, 0, n - 1)[:, None] == jnp.arange(n)[None]
        weights = weights + _KERNELS[method][0](fraction - tap, -0.75)[:, None] * there
    return weights


def antialiased_matrix(n: int, out: int, method: str, step: float | None = None) -> np.ndarray:
    """`interpolation_matrix` float64 whose kernel is as wide as an output pixel, cut at the border and normalised.

    As Pillow has it.

    >>> antialiased_matrix(4, 2, "bilinear").round(3).tolist()
    [[0.429, 0.429, 0.143, 0.0], [0.0, 0.143, 0.429, 0.429]]
    """
    kernel, radius = _KERNELS[method]
    step = n / out if step is None else step
    stretch = max(step, 1.0)
    centre = (np.arange(out, dtype=np.float64) + 0.5) * step
    first = np.floor((centre - radius * stretch + 0.5).clip(0, None))
    last = np.floor((centre + radius * stretch + 0.5).clip(None, n))
    j = np.arange(n)
    weights = kernel((j + 0.5 - centre[:, None]) / stretch, -0.5)
    weights = np.where((j >= first[:, None]) & (j < last[:, None]), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _triangle(t, _):
    return (1 - abs(t)).clip(0)


def _cubic(t, a):
    """Cubic convolution kernel (Keys 1981)."""
    t = abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((t - 5) * t + 8) * t * a - 4 * a
    return near * (t <= 1) + far * ((t > 1) & (t < 2))


_KERNELS = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}


def _nearest(n, out, step, offset):
    """Input index of every output index; in float32, whose rounding PyTorch's choice of neighbour follows."""
    position = (np.arange(out, dtype=np.float32) + np.float32(offset)) * np.float32(step)
    return np.floor(position).astype(np.int32).clip(0, n - 1)


def _is_identity(index, n):
    return len(index) == n and np.array_equal(index, np.arange(n))
