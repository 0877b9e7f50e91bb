"""Depthwise convolution and its gradients in forms that XLA runs fast on a CPU, some on TPUs too; elsewhere XLA's own.

The result and the gradient of the input are multiply-adds over shifted slices, one fused loop for each phase of the
stride. The gradient of the kernel is, for every tap, a sum over all positions. Loops over blocks of channels and rows
that fit into the cache add products to one row of sums for each tap; XLA's reduction would read memory once for each
channel. Figures are in `docs/performance.md`.
"""

import functools
import itertools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.axis import Axis, Sides, pad
from attnseg_jax.ops.linear_map import bilinear
from attnseg_jax.ops.plain import plain_conv, plain_input_gradient, plain_kernel_gradient

# Rows of the result in one step of the kernel's gradient, at most. From 16 on XLA first copies the rows of a step into
# one block, which is faster; more rows are more code to compile.
_ROWS = 32
# Taps of a strip that are written out in a turn of their loop.
_GROUP = 3
# Bytes of a block of rows and channels of one operand, which every tap reads again.
_BLOCK = 1_400_000
# Taps of a window up to which the slices take fewer cycles of a TPU than XLA's own convolution, which computes float32
# in half precision too (`benchmarks/tpu.py`).
_TPU_TAPS, _TPU_TAPS_OF_HALF = 9, 25


def depthwise_conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c"],
    stride: tuple[int, int] = (1, 1),
    padding: Sides = ((0, 0), (0, 0)),
    dilation: tuple[int, int] = (1, 1),
) -> Float[Array, "b i j c"]:
    """Cross-correlate every channel with its own filter, zero-padded by `((top, bottom), (left, right))`.

    Sums are taken in float32 or wider.

    >>> depthwise_conv(jnp.ones((1, 2, 3, 1)), jnp.ones((2, 2, 1)), padding=((0, 0), (0, 1))).ravel().tolist()
    [4.0, 4.0, 2.0]
    """
    return _convolution(*map(_Axis, kernel.shape, stride, dilation, padding, x.shape[1:3]))(x, kernel)


@functools.lru_cache(maxsize=1024)
def _convolution(rows, columns):
    """The convolution of images and kernels of given sizes."""
    axes = rows, columns

    # The loop and the many slices of the CPU's forms do not suit GPUs, whose libraries know this convolution.
    def choose(cpu, default, *, on_tpus):
        cpu, default = functools.partial(cpu, axes), functools.partial(default, axes)

        def chosen(*arrays):
            most = _TPU_TAPS if arrays[0].dtype.itemsize > 2 else _TPU_TAPS_OF_HALF
            forms = {"cpu": cpu, "tpu": cpu} if on_tpus and rows.taps * columns.taps <= most else {"cpu": cpu}
            return lax.platform_dependent(*arrays, **forms, default=default)

        return chosen

    return bilinear(
        choose(_product, _plain_product, on_tpus=True),
        choose(_input_gradient, _plain_input_gradient, on_tpus=rows.stride == columns.stride == 1),
        choose(_kernel_gradient, _plain_kernel_gradient, on_tpus=False),
    )


def _plain_product(axes, x, kernel):
    return plain_conv(x, kernel[:, :, None], axes, groups=x.shape[-1])


def _plain_input_gradient(axes, kernel, g):
    return plain_input_gradient(kernel[:, :, None], g, axes, groups=g.shape[-1])


def _plain_kernel_gradient(axes, x, g):
    return plain_kernel_gradient(x, g, axes, groups=g.shape[-1])[:, :, 0]


def _product(axes, x, kernel):
    rows, columns = axes
    x = pad(x, [(axis.before, axis.after(axis.out)) for axis in axes])
    slices = {(i, j): _cut(x, rows.tap(i), columns.tap(j)) for i, j in _taps(axes)}
    return _sum_of_products(slices, kernel, x.dtype)


def _input_gradient(axes, kernel, g):
    """Rows of one phase, that is with the same remainder modulo the stride, meet the same taps of the kernel."""
    rows, columns = axes
    g = pad(g, [(axis.reach - axis.first, axis.last - axis.out) for axis in axes])

    def phase(p, q):
        slices = {(i, j): _cut(g, r, c) for i, r in rows.phase(p) for j, c in columns.phase(q)}
        if not slices:
            return jnp.zeros_like(g[:, : rows.last - rows.first, : columns.last - columns.first])
        return _sum_of_products(slices, kernel, g.dtype)

    lines = [_interleave([phase(p, q) for q in range(columns.stride)], 2) for p in range(rows.stride)]
    start = [axis.before - axis.first * axis.stride for axis in axes]
    return _interleave(lines, 1)[:, start[0] : start[0] + rows.size, start[1] : start[1] + columns.size]


def _kernel_gradient(axes, x, g):
    channels = g.shape[-1]
    size = _channels_of_a_block(channels, len(g) * min(axes[0].out, _ROWS) * axes[1].out * g.dtype.itemsize)

    def block(n):
        cut = functools.partial(lax.dynamic_slice_in_dim, start_index=n * size, slice_size=size, axis=3)
        return _kernel_gradient_of_block(axes, cut(x), cut(g))

    if size == channels:
        return block(0)
    blocks = lax.map(block, jnp.arange(channels // size))
    return jnp.moveaxis(blocks, 0, 2).reshape(axes[0].taps, axes[1].taps, channels)


def _channels_of_a_block(channels, bytes_each):
    """The most channels, in equal blocks of whole vectors, that fit; all if their number has no such divisor."""
    divisors = [n for n in range(8, channels + 1, 8) if channels % n == 0]
    fitting = [n for n in divisors if n * bytes_each <= _BLOCK]
    # Less than a vector at a time would cost more than leaving the cache.
    return max(fitting) if fitting and max(fitting) >= 16 else min([n for n in divisors if n >= 16], default=channels)


def _kernel_gradient_of_block(axes, x, g):
    rows, columns = axes
    blocks = -(-rows.out // _ROWS)
    height = -(-rows.out // blocks)
    # The taps along the longer side of the window are a loop, those along the other are written out: with all of them
    # written out a compiler takes seconds. Of a strip some that follow each other are, which read the cotangents once.
    down = rows.taps >= columns.taps
    looped, written = (rows, columns) if down else (columns, rows)
    group = _GROUP if written.taps == 1 and looped.taps >= 3 * _GROUP else 1
    turns = -(-looped.taps // group)
    further = (turns * group - looped.taps) * looped.dilation
    after = [rows.after(blocks * height), columns.after(columns.out)]
    after[0 if down else 1] += further
    x = pad(x, [(rows.before, after[0]), (columns.before, after[1])])
    g = pad(g, [(0, blocks * height - rows.out), (0, 0)])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    size = [len(x), (height - 1) * rows.stride + rows.span + further * down, *x.shape[2:]]
    size[1 if down else 2] -= (turns - 1) * group * looped.dilation
    by_row = down if group > 1 else not down

    def block(n, sums):
        part_g = lax.dynamic_slice_in_dim(g, n * height, height, 1)

        def line_of_taps(k, sums):
            start = [0, n * height * rows.stride, 0, 0]
            start[1 if down else 2] += k * group * looped.dilation
            part = lax.dynamic_slice(x, start, size)
            return [lax.dynamic_update_index_in_dim(s, add(s[k], part, t), k, 0) for t, s in enumerate(sums)]

        def add(total, part, t):
            first = t * rows.dilation if by_row else 0
            across = columns.tap(0 if by_row else t)
            for row in range(height):
                start = first + row * rows.stride
                line = lax.squeeze(_cut(part, slice(start, start + 1), across), (1,))
                line_g = lax.index_in_dim(part_g, row, 1, keepdims=False)
                # Not jnp's, which takes several times as long to trace.
                total = lax.add(total, lax.mul(line.astype(wide), line_g.astype(wide)))
            return total

        return lax.fori_loop(0, turns, line_of_taps, sums)

    # The batch stays an axis to the end, so that a batch split over devices stays where it is.
    zeros = [jnp.zeros_like(g, wide, (turns, len(g), *g.shape[2:])) for _ in range(written.taps * group)]
    sums = [s.sum((1, 2)) for s in lax.fori_loop(0, blocks, block, zeros)]
    if group > 1:
        taps = jnp.stack(sums, 1).reshape(turns * group, -1)[: looped.taps]
        return jnp.expand_dims(taps, int(down)).astype(x.dtype)
    return jnp.stack(sums, int(down)).astype(x.dtype)


class _Axis(Axis):
    """An axis of which the gradient of the input is taken, in strides counted from the start of the padding."""

    @property
    def reach(self):
        """How many results before a pixel depend on it, in strides."""
        return (self.span - 1) // self.stride

    @property
    def first(self):
        """The stride that holds the first pixel."""
        return self.before // self.stride

    @property
    def last(self):
        """The stride after the last pixel."""
        return -(-(self.before + self.size) // self.stride)

    def phase(self, p):
        """The taps that pixels of phase `p` meet, each with the slice of the padded results in which they meet it."""
        taps = [(i, (i * self.dilation - p) // self.stride) for i in range(self.taps)]
        taps = [(i, self.reach - back) for i, back in taps if back * self.stride + p == i * self.dilation]
        return [(i, slice(start, start + self.last - self.first)) for i, start in taps]


def _taps(axes):
    return list(itertools.product(*(range(axis.taps) for axis in axes)))


def _sum_of_products(slices, kernel, dtype):
    wide = jnp.promote_types(dtype, jnp.float32)
    kernel = kernel.astype(wide)

    def product(tap, part):
        weights = lax.slice(kernel, (*tap, 0), (tap[0] + 1, tap[1] + 1, kernel.shape[2]))
        return lax.mul(part.astype(wide), lax.broadcast_in_dim(weights, part.shape, (1, 2, 3)))

    return functools.reduce(lax.add, itertools.starmap(product, slices.items())).astype(dtype)


def _cut(x, rows, columns):
    """`x[:, rows, columns]`, in the form that is fast to trace."""
    start, stop = (0, rows.start, columns.start, 0), (x.shape[0], rows.stop, columns.stop, x.shape[3])
    return lax.slice(x, start, stop, (1, rows.step or 1, columns.step or 1, 1))


def _interleave(parts, axis):
    """Elements of all parts in turn along `axis`."""
    shape = list(parts[0].shape)
    shape[axis] *= len(parts)
    return jnp.stack(parts, axis + 1).reshape(shape)
