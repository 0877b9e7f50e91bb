"""Class scores of pixels from masks with classes (Cheng et al. 2021, arXiv:2107.06278), in float32."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.resize import interpolation_matrix, resize

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
    masks = jax.nn.log_sigmoid(mask_logits.astype(jnp.float32))
    # The shift cancels up to rounding, so it needs no gradient.
    shift = lax.stop_gradient(masks.max(axis=-1, keepdims=True))
    scores = jnp.einsum("bhwq,bqk->bhwk", jnp.exp(masks - shift), classes)
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

    Args:
      class_logits: of k classes and, last, of no object.
      mask_logits: at any size.
      size: height and width of the result.
      align_corners: as in `resize`, bilinear.
      rows: of a stripe; 0 chooses.
    """
    b, q, y, _ = mask_logits.shape
    h, w = size
    rows = min(rows or _divisor(h, max(_AT_ONCE // (b * q * w), 1)), h)
    masks = jnp.moveaxis(mask_logits.astype(jnp.float32), 1, 3)
    if rows == h:
        return semantic_logits(class_logits, resize(masks, size, align_corners=align_corners))
    matrix = interpolation_matrix(y, h, "bilinear", align_corners=align_corners)
    # Each row of the image lies between two rows of the masks.
    first = np.minimum((matrix > 0).argmax(1), max(y - 2, 0)).astype(np.int32)
    second = np.minimum(first + 1, y - 1)
    share = np.where(second > first, matrix[np.arange(h), second], 0.0).astype(np.float32)

    @jax.checkpoint
    def stripe(start: Array) -> Array:
        at = jnp.minimum(start + jnp.arange(rows), h - 1)
        part = jnp.asarray(share)[at].reshape(1, rows, 1, 1)
        mixed = masks[:, jnp.asarray(first)[at]] * (1 - part) + masks[:, jnp.asarray(second)[at]] * part
        return semantic_logits(class_logits, resize(mixed, (rows, w), align_corners=align_corners))

    stripes = lax.map(stripe, jnp.arange(0, h, rows))
    return jnp.moveaxis(stripes, 0, 1).reshape(b, -1, w, stripes.shape[-1])[:, :h]


def _divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is at most `most`, or `most` where that is less than half of it.

    >>> _divisor(360, 100), _divisor(359, 100)
    (90, 100)
    """
    best = max(d for d in range(1, min(most, n) + 1) if n % d == 0)
    return best if 2 * best >= min(most, n) else most
