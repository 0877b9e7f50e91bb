"""Logits of large images by overlapping windows, and averages over scaled and mirrored images."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from attnseg_jax.ops.decision import SOFTMAX, Decision
from attnseg_jax.ops.resize import resize

Apply = Callable[[Float[Array, "n h w c"]], Float[Array, "n h w k"]]
"""From images to logits of their size."""

BLENDS = ("uniform", "gaussian")
PADDINGS = ("mean", "reflect")

# Of a window's extent: the deviation of the Gaussian weights, and their least value, as MONAI has them.
_SIGMA, _LEAST = 0.125, 1e-3


def starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one axis: every `stride`, the last one moved back inside.

    >>> starts(90, 48, 32), starts(64, 64, 64), starts(40, 64, 64)
    ([0, 32, 42], [0], [0])
    """
    count = max(size - window + stride - 1, 0) // stride + 1
    return [max(min(k * stride, size - window), 0) for k in range(count)]


def importance(window: tuple[int, int], blend: str) -> Float[np.ndarray, "h w"]:
    """Weights of a window's pixels: all 1, or a Gaussian around its centre that nowhere falls below a floor.

    Raises:
      ValueError: an unknown `blend`.
    """
    if blend not in BLENDS:
        raise ValueError(f"unknown blend {blend!r}, known: {', '.join(BLENDS)}")
    if blend == "uniform":
        return np.ones(window, np.float32)
    axes = [np.arange(n) - (n - 1) / 2 for n in window]
    rows, columns = (np.exp(-(x**2) / (2 * (_SIGMA * n) ** 2)) for x, n in zip(axes, window))
    weights = np.outer(rows, columns)
    return np.maximum(weights, max(weights.min(), _LEAST)).astype(np.float32)


def slide(
    apply: Apply,
    image: Float[Array, "b h w c"],
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    blend: str = "uniform",
    rows: int = 8,
    sharding: NamedSharding | None = None,
) -> Float[Array, "b h w k"]:
    """The logits of every window, averaged where windows overlap; float32.

    The windows begin every `stride` pixels, the last ones moved back inside; an image smaller than a window is one.
    `rows` of them are given to `apply` at once, in a program that does not grow with their number. As in
    MMSegmentation's `slide_inference` (uniform) and MONAI's `sliding_window_inference` (Gaussian; that pads smaller
    images).

    Args:
      apply: images -> logits.
      image: whole images.
      window: height and width.
      stride: rows and columns from one window to the next.
      blend: 'uniform', or 'gaussian', where the middle of a window counts most.
      rows: windows at a time, at most; fewer where that fills the last chunk.
      sharding: how they are spread over devices, of whose number `rows` is a multiple; None leaves that to others.

    Raises:
      ValueError: an unknown `blend`.
    """
    b, h, w, c = image.shape
    window = (min(window[0], h), min(window[1], w))
    tops, lefts = starts(h, window[0], stride[0]), starts(w, window[1], stride[1])
    places = np.array([(i, y, x) for i in range(b) for y in tops for x in lefts], np.int32)
    rows, total = _balanced(len(places), rows, sharding.num_devices if sharding else 1)
    # Rows that fill the last chunk count for nothing.
    counted = np.arange(total) < len(places)
    places = places[np.where(counted, np.arange(len(counted)), 0)]
    weights = importance(window, blend)
    classes = jax.eval_shape(apply, jax.ShapeDtypeStruct((rows, *window, c), image.dtype)).shape[-1]

    def chunk(total: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        where, counted = item
        patches = jax.vmap(lambda p: jax.lax.dynamic_slice(image, (*p, 0), (1, *window, c))[0])(where)
        if sharding is not None:
            patches = jax.lax.with_sharding_constraint(patches, sharding)
        logits = apply(patches).astype(jnp.float32) * weights[None, :, :, None] * counted[:, None, None, None]

        def add(row: Array, total: Array) -> Array:
            at = (*where[row], 0)
            before = jax.lax.dynamic_slice(total, at, (1, *window, classes))
            return jax.lax.dynamic_update_slice(total, before + logits[row][None], at)

        return jax.lax.fori_loop(0, rows, add, total), None

    chunks = (places.reshape(-1, rows, 3), counted.reshape(-1, rows))
    total, _ = jax.lax.scan(chunk, jnp.zeros((b, h, w, classes)), jax.tree.map(jnp.asarray, chunks))
    weight = np.zeros((h, w), np.float32)
    for y in tops:
        for x in lefts:
            weight[y : y + window[0], x : x + window[1]] += weights
    return total / weight[None, :, :, None]


def _balanced(count: int, rows: int, devices: int) -> tuple[int, int]:
    """Windows of a chunk, a multiple of `devices`, and of all chunks: of as few as `rows` allow, and as even.

    >>> _balanced(18, 8, 1), _balanced(5, 8, 1), _balanced(18, 8, 4), _balanced(3, 8, 8)
    ((6, 18), (5, 5), (8, 24), (8, 8))
    """
    chunks = -(-count // rows)
    rows = -(-count // (chunks * devices)) * devices
    return rows, chunks * rows


def pad_end(image: Float[Array, "b h w c"], by: tuple[int, int], padding: str = "mean") -> Float[Array, "b H W c"]:
    """Normalised images with `by` rows at the bottom and columns at the right.

    Those are zeros ('mean'), the mean colour of a data set, or the mirror image about the last pixel ('reflect').
    """
    if padding != "reflect":
        return jnp.pad(image, [(0, 0), *((0, n) for n in by), (0, 0)])
    for axis, more in enumerate(by, 1):
        # `jnp.pad` wants numbers, and exports have symbols for sizes.
        n = image.shape[axis]
        place = jnp.abs((jnp.arange(n + more) + n - 1) % max(2 * n - 2, 1) - (n - 1))
        image = jnp.take(image, place, axis=axis)
    return image


def average_views(
    apply: Apply,
    image: Float[Array, "b h w c"],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    multiple: int = 1,
    padding: str = "mean",
    decision: Decision = SOFTMAX,
) -> Float[Array, "b h w k"]:
    """Logits of the class probabilities, averaged over scaled and mirrored images.

    Each view is resized (bilinear, half-pixel centres, without antialiasing) and padded at the end to multiples of
    `multiple`; its logits are cut, mirrored back and resized to the size of the image. As MMSegmentation's
    `SegTTAModel`. With the image itself as the only view these are the logits, as they are.

    Args:
      apply: images -> logits.
      image: whole images.
      scales: factors of height and width.
      flip: adds the mirror image (left and right) of each.
      multiple: of the sizes that `apply` is right for.
      padding: as `pad_end` has it.
      decision: what the probabilities of logits are.
    """
    if tuple(scales) == (1.0,) and not flip:
        return apply(image)
    size, mean = image.shape[1:3], 0.0
    views = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    for scale, mirrored in views:
        h, w = (math.floor(n * scale + 0.5) for n in size)
        view = resize(image, (h, w))[:, :, :: -1 if mirrored else 1]
        view = pad_end(view, (-h % multiple, -w % multiple), padding)
        logits = apply(view)[:, :h, :w, :][:, :, :: -1 if mirrored else 1]
        resized = resize(decision.to_linear(logits.astype(jnp.float32)), size)
        mean = mean + decision.probabilities(decision.from_linear(resized)) / len(views)
    return decision.logits(mean)
