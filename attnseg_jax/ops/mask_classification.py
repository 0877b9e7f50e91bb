"""Class scores of pixels from masks with classes (Cheng et al. 2021, arXiv:2107.06278), in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.bilinear import between
from attnseg_jax.ops.resize import interpolation_matrix, resize
from attnseg_jax.ops.symbolic import is_symbolic

_TINY = 1e-30
# Numbers of the masks that are upsampled at once.
_AT_ONCE = 2**23


def semantic_logits(
    class_logits: Float[Array, "b q j"], mask_logits: Float[Array, "b h w q"]
) -> Float[Array, "b h w k"]:
    """Logarithm of MaskFormer's semantic scores `sum over q of softmax(class)_qk * sigmoid(mask)_q`, j = k + 1.

    The last class, "no object", takes part in the softmax and is then dropped, so that a query can opt out of all
    pixels. As logits of a cross-entropy they make the probability of a class its share of the scores: a mixture of
    the queries' classes, weighted by their masks at the pixel. The order of the classes is that of the scores.

    Returns:
      `[b, h, w, k]` float32. Gradients do not vanish where all masks are near 0, since the largest is factored out
      of the sum; a score below 1e-30 of it counts as 1e-30.

    >>> classes = jnp.array([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    >>> print(semantic_logits(classes, jnp.array([0.0, 1.0]).reshape(1, 1, 1, 2)).round(1).ravel())
    [-0.7 -0.3]
    """
    classes = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)[..., :-1]
    masks = mask_logits.astype(jnp.float32)
    # The shift cancels up to rounding, so it needs no gradient.
    shift = lax.stop_gradient(jnp.minimum(masks.max(axis=-1, keepdims=True), 0.0))
    # sigmoid(masks) / exp(shift); beyond the bound a mask is less than `_TINY` of the largest.
    masks = 1.0 / (jnp.exp(shift) + jnp.exp(jnp.minimum(shift - masks, 80.0)))
    scores = jnp.einsum("bhwq,bqk->bhwk", masks, classes)
    return jnp.log(jnp.maximum(scores, _TINY)) + shift


def resized_semantic_logits(
    class_logits: Float[Array, "b q j"],
    mask_logits: Float[Array, "b q y x"],
    size: tuple[int, int],
    *,
    align_corners: bool = False,
    rows: int = 0,
) -> Float[Array, "b h w k"]:
    """`semantic_logits` of the masks resized to an image, the order of MaskFormer, Mask2Former and EoMT.

    Scores of small masks that are resized themselves differ: there a border between two queries is as soft as the
    pixels of the masks are large, here it is sharp where the interpolated logits cross 0.

    The large masks are never there as a whole: stripes of rows are resized one after another, also for the gradient.
    Only a program for images of any size, which does not know how many rows there are, has them whole.

    Args:
      class_logits: of k classes and, last, of no object.
      mask_logits: at any size.
      size: height and width of the result.
      align_corners: as in `resize`, bilinear.
      rows: of a stripe; 0 chooses.

    >>> classes = jnp.array([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
    >>> masks = jnp.array([[9.0, -9.0], [-9.0, 9.0]]).reshape(1, 2, 1, 2)
    >>> resized_semantic_logits(classes, masks, (1, 4)).argmax(-1).tolist()
    [[[0, 0, 1, 1]]]
    """
    b, q = mask_logits.shape[:2]
    h, w = size
    masks = jnp.moveaxis(mask_logits.astype(jnp.float32), 1, 3)
    if is_symbolic(h, w, *mask_logits.shape[2:]):
        return semantic_logits(class_logits, resize(masks, size, align_corners=align_corners))
    # Of a batch of any size one image is what counts.
    images = 1 if is_symbolic(b) else b
    rows = min(rows or _divisor(h, max(_AT_ONCE // (images * q * w), 1)), h)
    vertical, horizontal = (
        _neighbours(n, out, align_corners) for n, out in zip(mask_logits.shape[2:], size, strict=True)
    )

    def stripe(start: Array | int) -> Array:
        at = jnp.minimum(start + jnp.arange(rows), h - 1)
        part = between(masks, *(jnp.asarray(x)[at] for x in vertical), axis=1)
        return semantic_logits(class_logits, between(part, *map(jnp.asarray, horizontal), axis=2))

    if rows == h:
        return stripe(0)
    stripes = lax.map(jax.checkpoint(stripe), jnp.arange(0, h, rows))
    return jnp.moveaxis(stripes, 0, 1).reshape(b, -1, w, stripes.shape[-1])[:, :h]


def _neighbours(n: int, out: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two input positions that each of `out` positions lies between, and the share of the second."""
    matrix = interpolation_matrix(n, out, "bilinear", align_corners=align_corners)
    first = np.minimum((matrix > 0).argmax(1), max(n - 2, 0))
    second = np.minimum(first + 1, n - 1)
    share = np.where(second > first, matrix[np.arange(out), second], 0.0)
    return first.astype(np.int32), second.astype(np.int32), share.astype(np.float32)


def _divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is at most `most`, or `most` where that is less than half of it.

    >>> _divisor(360, 100), _divisor(359, 100)
    (90, 100)
    """
    best = max(d for d in range(1, min(most, n) + 1) if n % d == 0)
    return best if 2 * best >= min(most, n) else most
