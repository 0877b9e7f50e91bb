"""Losses of queries, each of which predicts a class and a mask, against the segments they are matched with.

Of MaskFormer (Cheng et al. 2021, arXiv:2107.06278), Mask2Former (Cheng et al. 2022, arXiv:2112.01527) and EoMT
(Kerssies et al. 2025, arXiv:2503.19108). A segment is all pixels of one class in one image. Masks are compared where
they are sampled (see `ops.points`), so that none is needed at the size of the image. Who matches queries with segments
is not said here: a matching is `[b, n]`, the query of each segment, or q where it has none.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from attnseg_jax.ops.separable import exact_product

# Of the focal loss of masks, as in MaskFormer.
_ALPHA = 0.25
_PAIRS = "bqp,bnp->bqn"


def segments(labels: Int[Array, "b h w"], num_classes: int, count: int = 0) -> Int[Array, "b n"]:
    """The class of each segment of an image, -1 where it has fewer than there is room for.

    Args:
      labels: in `[0, k)`, or 255, which is in no segment.
      num_classes: k.
      count: room for so many, the largest; 0 is one for each class, in their order.

    >>> labels = jnp.array([[[1, 4, 4, 255]]])
    >>> segments(labels, 5).tolist(), segments(labels, 5, 3).tolist()
    ([[-1, 1, -1, -1, 4]], [[4, 1, -1]])
    """
    k = num_classes
    known = jnp.where((labels >= 0) & (labels < k), labels, k).astype(jnp.int32).reshape(labels.shape[0], -1)
    pixels = jax.vmap(lambda row: jnp.zeros(k + 1, jnp.int32).at[row].add(1))(known)[:, :k]
    if not 0 < count < k:
        return jnp.where(pixels > 0, jnp.arange(k, dtype=jnp.int32)[None], -1)
    pixels, classes = lax.top_k(pixels, count)
    return jnp.where(pixels > 0, classes, -1)


def matching_costs(
    class_logits: Float[Array, "b q j"],
    values: Float[Array, "b q p"],
    classes: Int[Array, "b n"],
    targets: Float[Array, "b n p"],
    weights: Float[Array, "b 1 p"] | None = None,
    *,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
    focal: bool = False,
) -> Float[Array, "b q n"]:
    """What it costs to match each query with each segment, without gradient.

    Args:
      class_logits: of the k classes and, last, of no object.
      values: mask logits at the points.
      classes: of the segments, see `segments`; the costs of a segment that is none mean nothing.
      targets: shares of the segments at the points.
      weights: of the points; None is 1 for each.
      class_weight: of minus the probability of the segment's class.
      mask_weight: of the mean binary cross-entropy, or with `focal` of the mean focal loss.
      dice_weight: of the Dice loss.
      focal: as in `mask_losses`.

    >>> zeros, ones = jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2))
    >>> weights = {"class_weight": 2.0, "mask_weight": 0.0, "dice_weight": 4.0}
    >>> matching_costs(zeros, zeros, jnp.array([[0]]), ones, **weights).item()  # minus 2 times 1/2, plus 4 times 1/4
    0.0
    """
    class_logits, x, t = lax.stop_gradient((class_logits.astype(jnp.float32), values.astype(jnp.float32), targets))
    w = jnp.ones_like(x[:, :1]) if weights is None else weights
    # Exact products: rounded ones would match near ties otherwise than other devices do.
    probability = jnp.take_along_axis(jax.nn.softmax(class_logits), jnp.maximum(classes, 0)[:, None], axis=-1)
    inside, outside = _halves(x, focal)
    mask = (w * outside).sum(-1, keepdims=True) + exact_product(_PAIRS, w * (inside - outside), t)
    s = jax.nn.sigmoid(x) * w
    overlap = 2 * exact_product(_PAIRS, s, t) + 1
    dice = 1 - overlap / (s.sum(-1, keepdims=True) + (t * w).sum(-1)[:, None] + 1)
    return -class_weight * probability + mask_weight * mask / _total(w) + dice_weight * dice


def class_loss(
    class_logits: Float[Array, "b q j"],
    classes: Int[Array, "b n"],
    matching: Int[Array, "b n"],
    *,
    no_object: float,
    class_weights: Float[Array, " k"] | None = None,
    images: Bool[Array, " b"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Summed cross-entropy of the queries' classes, and its divisor: the sum of the weights of what they should be.

    A query should be the class of its segment, or no object. The divisor depends on the labels alone: where an image
    has more segments than queries, and the classes weigh differently, the matched ones count by the mean of them all.

    Args:
      class_logits: of the k classes and, last, of no object.
      classes: of the segments, -1 for none.
      matching: the query of each segment, q for none.
      no_object: weight of a query that should be no object.
      class_weights: of the others; None is 1 for each.
      images: those that count, by default all.

    >>> total, weight = class_loss(jnp.zeros((1, 2, 4)), jnp.array([[2]]), jnp.array([[1]]), no_object=0.1)
    >>> round(float(total / weight), 4), round(float(weight), 4)  # log(4)
    (1.3863, 1.1)
    """
    b, q, j = class_logits.shape
    target = jax.vmap(lambda i, c: jnp.full(q, j - 1).at[i].set(c, mode="drop"))(matching, classes)
    ones = jnp.ones(j - 1) if class_weights is None else class_weights.astype(jnp.float32)
    weights = jnp.concatenate([ones, jnp.full(1, no_object)])
    counted = jnp.ones(b, bool) if images is None else images
    log_p = jax.nn.log_softmax(jnp.where(counted[:, None, None], class_logits.astype(jnp.float32), 0.0))
    loss = -weights[target] * jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]

    present = classes >= 0
    n = present.sum(-1)
    mean = jnp.where(present, weights[classes], 0.0).sum(-1) / jnp.maximum(n, 1)
    count = jnp.minimum(n, q) * mean + jnp.maximum(q - n, 0) * no_object
    return jnp.where(counted[:, None], loss, 0.0).sum(), jnp.where(counted, count, 0.0).sum()


def segment_count(classes: Int[Array, "b n"]) -> Float[Array, ""]:
    """The number of segments, which divides the losses of masks.

    >>> float(segment_count(jnp.array([[4, 1, -1], [-1, -1, -1]])))
    2.0
    """
    return (classes >= 0).sum(dtype=jnp.int32).astype(jnp.float32)


def mask_losses(
    values: Float[Array, "b n p"],
    targets: Float[Array, "b n p"],
    matched: Bool[Array, "b n"],
    weights: Float[Array, "b #n p"] | None = None,
    *,
    focal: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Summed binary cross-entropy and summed Dice loss of matched masks.

    Each is a mean over the points of a mask. `segment_count` divides both.

    Args:
      values: logits of the mask of each segment's query, at the points of the segment.
      targets: shares of the segment there.
      matched: whether the segment has a query.
      weights: of the points; None is 1 for each.
      focal: the focal loss (gamma 2, alpha 0.25) instead of the cross-entropy, as MaskFormer has it.

    >>> terms = mask_losses(jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2)), jnp.array([[True]]))
    >>> [round(float(term), 4) for term in terms]  # log(2), and 1 - (2 + 1) / (1 + 2 + 1)
    [0.6931, 0.25]
    """
    x = jnp.where(matched[..., None], values.astype(jnp.float32), 0.0)
    w = jnp.ones_like(x[:, :1]) if weights is None else weights
    # Logits of points that do not count may be anything.
    x = jnp.where(w > 0, x, 0.0)
    inside, outside = _halves(x, focal)
    mask = (w * (inside * targets + outside * (1 - targets))).sum(-1) / _total(w)[..., 0]
    s = jax.nn.sigmoid(x) * w
    dice = 1 - (2 * (s * targets).sum(-1) + 1) / (s.sum(-1) + (targets * w).sum(-1) + 1)
    return jnp.where(matched, mask, 0.0).sum(), jnp.where(matched, dice, 0.0).sum()


def uncertain_points(
    candidates: Float[Array, "b 1 c 2"] | Float[Array, "b n c 2"],
    values: Float[Array, "b n c"],
    count: int,
    weights: Float[Array, "b #n c"] | None = None,
) -> Float[Array, "b n p 2"]:
    """The `count` candidates of each mask with the logits nearest 0, most uncertain first (Kirillov et al. 2020).

    Args:
      candidates: points, of each mask or of an image.
      values: mask logits there.
      count: how many are wanted.
      weights: of the points; those without weight come last.

    >>> points = jnp.array([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]).reshape(1, 1, 3, 2)
    >>> uncertain_points(points, jnp.array([[[3.0, -0.5, 1.0]]]), 2)[..., 0].round(1).tolist()
    [[[0.20000000298023224, 0.30000001192092896]]]
    """
    doubt = -jnp.abs(lax.stop_gradient(values.astype(jnp.float32)))
    if weights is not None:
        doubt = jnp.where(weights > 0, doubt, -jnp.inf)
    index = lax.top_k(doubt, count)[1]
    if candidates.shape[1] == 1:
        return jax.vmap(lambda points, i: points[i])(candidates[:, 0], index)
    return jax.vmap(jax.vmap(lambda points, i: points[i]))(candidates, index)


def _halves(x: Array, focal: bool) -> tuple[Array, Array]:
    """The loss of a logit inside of its segment, and outside."""
    inside, outside = jax.nn.softplus(-x), jax.nn.softplus(x)
    if not focal:
        return inside, outside
    p = jax.nn.sigmoid(x)
    return _ALPHA * (1 - p) ** 2 * inside, (1 - _ALPHA) * p**2 * outside


def _total(weights: Float[Array, "b n p"]) -> Float[Array, "b n 1"]:
    """The divisor of a mean over points; where none counts, the sums are 0 too."""
    total = weights.sum(-1, keepdims=True)
    return jnp.where(total > 0, total, 1.0)
