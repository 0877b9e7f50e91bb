"""Rotary positions of a map (Su et al. 2021, arXiv:2104.09864; along two axes as in DINOv3, arXiv:2508.10104)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnseg_jax.ops.symbolic import numpy_of


def axial_angles(height: int, width: int, channels: int, *, base: float = 100.0) -> Float[np.ndarray, "n d"]:
    """Angles by which the channels of a head are turned at every position of a map, row by row, float32.

    A position is its pixel's centre on a scale from -1 to 1 along each axis, whatever the size of the map. Half of the
    pairs of channels turn with the row, half with the column, by `2 pi * centre * base^(-4 j / d)` for `j < d / 4`;
    channel `i` and `i + d / 2` are a pair and have the same angle.

    Args:
      height: rows of the map.
      width: its columns.
      channels: of a head, a multiple of 4.
      base: of the geometric series of frequencies.

    >>> (axial_angles(1, 2, 4) / np.pi).round(2).tolist()
    [[0.0, -1.0, 0.0, -1.0], [0.0, 1.0, 0.0, 1.0]]
    """
    if channels % 4:
        raise ValueError(f"rotary positions along two axes need a multiple of 4 channels for a head, not {channels}")
    # The program itself has to compute those of a map whose size is not known.
    xp = numpy_of(height, width)
    turns = (2 * np.pi * base ** (-4 * np.arange(channels // 4) / channels)).reshape(1, 1, -1)
    axes = [
        ((2 * xp.arange(height) + 1) / height - 1)[:, None, None] * turns,
        ((2 * xp.arange(width) + 1) / width - 1)[None, :, None] * turns,
    ]
    y, x = (xp.broadcast_to(axis, (height, width, channels // 4)) for axis in axes)
    return xp.concatenate([y, x, y, x], axis=-1).reshape(height * width, channels).astype(np.float32)


def rotated(x: Float[Array, "b n a d"], angles: Float[Array, "m d"], *, first: int = 0) -> Float[Array, "b n a d"]:
    """Queries or keys with the tokens `first` to `first + m` turned by `angles`; the others stay as they are.

    The product of a query and a key then depends on their positions by the difference alone.

    >>> x = jnp.array([[[[1.0, 0.0]], [[1.0, 0.0]]]])
    >>> rotated(x, jnp.full((1, 2), np.pi / 2), first=1).round(3).tolist()
    [[[[1.0, 0.0]], [[-0.0, 1.0]]]]
    """
    m, half = angles.shape[0], x.shape[-1] // 2
    part = x[:, first : first + m].astype(jnp.float32)
    cos, sin = jnp.cos(angles)[None, :, None], jnp.sin(angles)[None, :, None]
    turned = part * cos + jnp.concatenate([-part[..., half:], part[..., :half]], axis=-1) * sin
    return jnp.concatenate([x[:, :first], turned.astype(x.dtype), x[:, first + m :]], axis=1)
