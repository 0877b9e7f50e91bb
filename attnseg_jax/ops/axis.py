"""Where the taps of a sliding window stand along one axis of an image: what convolution and pooling share.

A tap is a slice of the whole image, one pixel for each window. XLA fuses such slices with elementwise work, and their
gradient runs many times faster on CPU than those of `lax.reduce_window` or of a depthwise convolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

Sides = tuple[tuple[int, int], tuple[int, int]]


class Axis(NamedTuple):
    """One axis: windows of `taps` pixels that stand `dilation` apart, one every `stride` pixels.

    The windows lie on `size` pixels between the padding of both `sides`; a negative side cuts pixels off.
    """

    taps: int
    stride: int
    dilation: int
    sides: tuple[int, int]
    size: int

    @property
    def before(self) -> int:
        """Padding in front."""
        return self.sides[0]

    @property
    def span(self) -> int:
        """Pixels from the first tap to the last."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def out(self) -> int:
        """Number of windows."""
        return (self.size + sum(self.sides) - self.span) // self.stride + 1

    def after(self, out: int) -> int:
        """The padding after the pixels that `out` windows need; negative if they do not need all pixels."""
        return (out - 1) * self.stride + self.span - self.size - self.before

    def tap(self, i: int) -> slice:
        """The padded pixels under tap `i`, one for each window."""
        first = i * self.dilation
        return slice(first, first + (self.out - 1) * self.stride + 1, self.stride)


def pad(x, sides: Sequence[tuple[int, int]], fill=0):
    """`x` `[b, h, w, c]` padded with `fill`, or cut where a side is negative."""
    return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((*pair, 0) for pair in sides), (0, 0, 0)])
