"""Convolutions with PyTorch's conventions: `[b, h, w, c]` images, `[kh, kw, c, o]` kernels, explicit padding.

Pointwise kernels, depthwise ones and those that reach beyond the map have forms and gradients that XLA runs many times
faster on CPU than its own convolution, and large dense ones a gradient of the kernel; `docs/performance.md` has the
figures. GPUs get XLA's own of all but those that reach beyond the map.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnseg_jax.ops.axis import Axis, Sides, pad
from attnseg_jax.ops.dense import dense_conv, worth_blocks
from attnseg_jax.ops.depthwise import depthwise_conv
from attnseg_jax.ops.plain import plain_conv
from attnseg_jax.ops.pointwise import pointwise
from attnseg_jax.ops.pool import Pair, pair
from attnseg_jax.ops.symbolic import any_below, surely
from attnseg_jax.ops.transposed import plain_transposed, transposed_conv

_MOST_TAPS = 49  # beyond a 7x7 window the unrolled depthwise form is too much code


def conv(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ o"],
    *,
    stride: Pair = 1,
    padding: Pair | Sides = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Float[Array, "b i j o"]:
    """Cross-correlate `x` with `kernel` `[kh, kw, c / groups, o]`, zero-padded by `padding` on both sides.

    `padding` may also name every side, `((top, bottom), (left, right))`: stride-2 convolutions on even sizes differ
    from TensorFlow's 'SAME', which pads unevenly (see `same_padding`). Pointwise kernels and those that reach beyond
    the map become matrix products, depthwise ones shifted multiply-adds (see `depthwise`).

    Raises:
      ValueError: channels that the groups do not divide or the kernel does not fit.

    >>> conv(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1)), stride=2, padding=1).ravel().tolist()
    [8.0, 12.0, 12.0, 18.0]
    """
    _check(x, kernel, groups)
    (sh, sw), sides, (dh, dw) = pair(stride), _sides(padding), pair(dilation)
    kh, kw = kernel.shape[:2]
    c = x.shape[-1]
    if kh == kw == groups == 1 and sides == ((0, 0), (0, 0)):
        if (sh, sw) != (1, 1):
            # As a window's tap, so that sizes that are symbols have the form which other strided kernels give them.
            rows, columns = map(Axis, (1, 1), (sh, sw), (1, 1), sides, x.shape[1:3])
            x = x[:, rows.tap(0), columns.tap(0)]
        return pointwise(x, kernel[0, 0])
    if groups == c and c > 1 and kh * kw <= _MOST_TAPS:
        x = jnp.repeat(x, kernel.shape[-1] // c, axis=-1)
        return depthwise_conv(x, kernel[:, :, 0], (sh, sw), sides, (dh, dw))
    reach = (kh - 1) * dh + 1, (kw - 1) * dw + 1
    beyond = surely(lambda: x.shape[1] < reach[0] and x.shape[2] < reach[1])
    if groups == 1 and kh * kw <= _MOST_TAPS and beyond:
        return _of_patches(x, kernel, (sh, sw), sides, (dh, dw))
    if groups == 1 and 1 < kh * kw <= _MOST_TAPS and worth_blocks(x, kernel, (sh, sw)):
        return dense_conv(x, kernel, (sh, sw), sides, (dh, dw))
    axes = tuple(map(Axis, (kh, kw), (sh, sw), (dh, dw), sides, x.shape[1:3]))
    return plain_conv(x, kernel, axes, groups)


def _of_patches(x, kernel, stride, sides, dilation):
    """`conv` as one product with the pixels under every tap side by side, for maps smaller than the kernel's reach."""
    kh, kw, c, o = kernel.shape
    rows, columns = map(Axis, (kh, kw), stride, dilation, sides, x.shape[1:3])
    x = pad(x, sides)
    patches = [x[:, rows.tap(i), columns.tap(j)] for i in range(kh) for j in range(kw)]
    return pointwise(jnp.concatenate(patches, axis=-1), kernel.reshape(kh * kw * c, o))


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Zeros before and after an axis of `size` pixels such that `ceil(size / stride)` remain, as TensorFlow's 'SAME'.

    The odd one of an uneven number comes last. `kernel` taps stand `dilation` pixels apart.

    >>> same_padding(8, 3, 2), same_padding(9, 3, 2), same_padding(9, 5, 2)
    ((0, 1), (1, 1), (2, 2))
    """
    needed = (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1
    before = max(needed - size, 0) // 2
    return before, max(needed - size, 0) - before


def conv_transpose(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ o"],
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
) -> Float[Array, "b i j o"]:
    """Transposed convolution: every input pixel adds `kernel` `[kh, kw, c / groups, o]`, times itself, to the output.

    It is the gradient of a cross-correlation, as in PyTorch, whose weight `[c, o, kh, kw]` (one group) is this kernel
    transposed. `padding` is cut off on both sides and `output_padding` appended at the end, so that an axis of `n`
    pixels becomes `(n - 1) * stride - 2 * padding + k + output_padding`.

    Raises:
      ValueError: channels that the groups do not divide or the kernel does not fit, or a negative output size.

    >>> conv_transpose(jnp.ones((1, 1, 2, 1)), jnp.arange(3.0).reshape(1, 3, 1, 1), stride=(1, 2)).ravel().tolist()
    [0.0, 1.0, 2.0, 1.0, 2.0]
    """
    _check(x, kernel, groups)
    strides, paddings = pair(stride), pair(padding)
    axes = zip(x.shape[1:3], strides, paddings, kernel.shape[:2], pair(output_padding))
    size = [(n - 1) * s - 2 * p + k + extra for n, s, p, k, extra in axes]
    if any_below(1, *size):
        raise ValueError(f"padding {padding} leaves nothing of the output")
    sides = tuple((-p, extra - p) for p, extra in zip(paddings, pair(output_padding)))
    if groups > 1:
        return plain_transposed(x, kernel, strides, sides, groups)
    return transposed_conv(x, kernel, strides, sides)


def _sides(padding):
    """`padding` of every side: `((top, bottom), (left, right))`."""
    if not isinstance(padding, int) and not isinstance(padding[0], int):
        return tuple(tuple(sides) for sides in padding)
    height, width = pair(padding)
    return (height, height), (width, width)


def _check(x, kernel, groups):
    c, o = x.shape[-1], kernel.shape[-1]
    if x.ndim != 4 or kernel.ndim != 4 or groups < 1 or kernel.shape[2] * groups != c or o % groups:
        shapes = f"x [b, h, w, c] = {x.shape} and kernel [kh, kw, c / groups, o] = {kernel.shape}"
        raise ValueError(f"{shapes} do not fit with groups = {groups}")
