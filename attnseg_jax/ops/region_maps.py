"""Hard regions: their masks, their boxes and their scores painted back onto the pixels.

A region map is int32 `[b, h, w, l]`: l partitions of an image (levels), each with the number of the region that a pixel
belongs to, or -1. The numbers 0 to r - 1 are shared by all levels.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def region_masks(regions: Int[Array, "b h w l"], count: int) -> Bool[Array, "b h w r"]:
    """Whether each pixel belongs to each of `count` regions.

    >>> region_masks(jnp.array([[0, 2], [-1, 1]]).reshape(1, 2, 1, 2), 3)[0, :, 0].astype(int).tolist()
    [[1, 0, 1], [0, 1, 0]]
    """
    return (regions[..., None] == jnp.arange(count).reshape(1, 1, 1, 1, count)).any(3)


def mask_boxes(masks: Bool[Array, "b h w r"]) -> Float[Array, "b r 4"]:
    """Bounding boxes float32 `x1, y1, x2, y2` of all masks.

    Edges of pixels, not centres: a mask of pixel (y, x) alone has the box `x, y, x + 1, y + 1`. An empty mask has the
    box 0, 0, 0, 0.

    >>> mask_boxes(jnp.arange(6).reshape(1, 2, 3, 1) == 4).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    """
    y1, y2 = _extent(masks.any(2))
    x1, x2 = _extent(masks.any(1))
    return jnp.stack([x1, y1, x2, y2], -1).astype(jnp.float32)


def _extent(present: Bool[Array, "b n r"]) -> tuple[Int[Array, "b r"], Int[Array, "b r"]]:
    """First position of each and the one after its last; both 0 where there is none."""
    first = jnp.argmax(present, axis=1)
    after = present.shape[1] - jnp.argmax(present[:, ::-1], axis=1)
    return first, jnp.where(present.any(1), after, 0)


def paint(scores: Float[Array, "b r k"], regions: Int[Array, "b h w l"]) -> Float[Array, "b h w l k"]:
    """Scores of the region that a pixel belongs to at each level: 0 for region -1, NaN for one that does not exist.

    >>> paint(jnp.array([[[5.0], [-3.0]]]), jnp.array([[0, -1], [1, 0]]).reshape(1, 1, 2, 2))[0, 0, ..., 0].tolist()
    [[5.0, 0.0], [-3.0, 5.0]]
    """

    def of_image(scores, index):
        return scores.at[index].get(mode="fill", fill_value=jnp.nan)

    painted = jax.vmap(of_image)(scores, jnp.maximum(regions, 0))
    return jnp.where(regions[..., None] >= 0, painted, 0)


def level_maximum(painted: Float[Array, "b h w l k"], regions: Int[Array, "b h w l"]) -> Float[Array, "b h w k"]:
    """Maximum of the scores from `paint` over the levels at which a pixel has a region, 0 where it has none.

    The region-to-pixel layer of Caesar et al. 2016, arXiv:1607.07671: the gradient of a class goes to the best region.

    >>> painted = jnp.array([[5.0, 0.0], [-3.0, 0.0], [-3.0, 5.0]]).reshape(1, 1, 3, 2, 1)
    >>> level_maximum(painted, jnp.array([[0, -1], [-1, -1], [1, 0]]).reshape(1, 1, 3, 2)).ravel().tolist()
    [5.0, 0.0, 5.0]
    """
    inside = regions[..., None] >= 0
    largest = jnp.where(inside, painted, -jnp.inf).max(3)
    return jnp.where(inside.any(3), largest, 0)
