"""Class scores of pixels from masks with classes (Cheng et al. 2021, arXiv:2107.06278), in float32."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_TINY = 1e-30


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
