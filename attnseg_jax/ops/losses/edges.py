"""Losses of a branch that says where classes meet (PIDNet, Xu et al. 2023, arXiv:2206.02066)."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses.sums import over_devices, ratio
from attnseg_jax.ops.pool import max_pool


def class_edges(labels: Int[Array, "b h w *c"], *, width: int = 2) -> Bool[Array, "b h w"]:
    """The pixels that have one of another class within `width` pixels, in both directions.

    Of labels `[b, h, w, k]`, those near which any of the classes begins or ends. Ignored pixels neither are edges nor
    make any. mmsegmentation finds edges with OpenCV's Canny filter, those around ignored pixels too, and widens them to
    four pixels.

    >>> class_edges(jnp.array([[[0, 0, 1, 255, 0]]]), width=1).tolist()
    [[[False, True, True, False, False]]]
    >>> class_edges(jnp.array([[[[0, 1], [0, 1], [1, 1], [1, 255]]]]), width=1).tolist()
    [[[False, True, True, False]]]
    """
    each = labels.reshape(*labels.shape[:3], -1)
    valid = each != IGNORE_LABEL
    signed = [jnp.where(valid, x.astype(jnp.float32), -jnp.float32(IGNORE_LABEL)) for x in (each, -each)]
    highest, lowest = jnp.split(max_pool(jnp.concatenate(signed, -1), 2 * width + 1, 1, width), 2, -1)
    return (valid & (highest != -lowest)).any(-1)


def edge_cross_entropy(
    logits: Float[Array, "b h w"],
    edges: Bool[Array, "b h w"],
    labels: Int[Array, "b h w *c"],
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Binary cross-entropy of edges, in which edges and other pixels weigh the same in all.

    The weight of an edge is the share of the other pixels, and the reverse, over the valid pixels of all devices;
    mmsegmentation divides by the ignored pixels, too.

    Args:
      logits: of "there is an edge".
      edges: the truth, see `class_edges`.
      labels: say which pixels are ignored.
      axis_name: mapped axis over whose devices the pixels are counted.

    >>> edges = jnp.array([[[True, False, False, False]]])
    >>> loss_sum, count = edge_cross_entropy(jnp.zeros((1, 1, 4)), edges, jnp.zeros((1, 1, 4), int))
    >>> round(float(loss_sum / count), 4)  # log(2) (3/4 + 3 * 1/4) / 4
    0.2599
    """
    valid = (labels.reshape(*labels.shape[:3], -1) != IGNORE_LABEL).any(-1)
    z = jnp.asarray(logits, jnp.float32)
    counts = jnp.stack([(valid & edges).sum(), (valid & ~edges).sum()]).astype(jnp.float32)
    counts = lax.stop_gradient(over_devices(counts, axis_name))
    of_edges, of_others = ratio(counts, counts.sum())
    weights = jnp.where(edges, of_others, of_edges)
    loss = jnp.where(valid, weights * (jax.nn.softplus(z) - z * edges), 0.0)
    return loss.sum(), valid.sum(dtype=jnp.int32).astype(jnp.float32)


def labels_near_edges(
    labels: Int[Array, "b h w *c"], logits: Float[Array, "b h w"], *, confidence: float = 0.8
) -> Int[Array, "b h w *c"]:
    """The labels where an edge has been found with more than this probability; all others are ignored.

    >>> labels_near_edges(jnp.array([[[3, 4]]]), jnp.array([[[2.0, 1.0]]])).tolist()
    [[[3, 255]]]
    """
    found = jax.nn.sigmoid(logits.astype(jnp.float32)) > confidence
    return jnp.where(found.reshape(*found.shape, *[1] * (labels.ndim - 3)), labels, IGNORE_LABEL)
