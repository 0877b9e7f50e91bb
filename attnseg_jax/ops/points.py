"""Values of maps at points between pixels.

Points are `(x, y)` in [0, 1] from the left and the top edge of the map. Outside it is 0, with which a point within half
a pixel of the edge is mixed: as in PyTorch's `grid_sample` of points times two minus one, `align_corners=False`.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnseg_jax.ops.labels import IGNORE_LABEL


def sample(maps: Float[Array, "b n y x"], points: Float[Array, "b #n p 2"]) -> Float[Array, "b n p"]:
    """Bilinear values of every map at its points, or at those that all maps of an image share; float32.

    >>> maps = jnp.array([0.0, 1.0]).reshape(1, 1, 1, 2)
    >>> sample(maps, jnp.array([[0.25, 0.5], [0.5, 0.5], [1.0, 0.5]]).reshape(1, 1, 3, 2)).ravel().tolist()
    [0.0, 0.5, 0.5]
    """
    flat = maps.astype(jnp.float32).reshape(*maps.shape[:2], -1)
    return sum(_at(flat, index) * weight for index, weight in corners(points, maps.shape[2:]))


def class_shares(
    labels: Int[Array, "b h w"], classes: Int[Array, "b n"], points: Float[Array, "b #n p 2"]
) -> Float[Array, "b n p"]:
    """Bilinear values of the masks `labels == class` at points, without the masks; as of `sample`.

    A class of -1 is nowhere.

    >>> labels = jnp.array([[[3, 5]]])
    >>> class_shares(labels, jnp.array([[5, 3, -1]]), jnp.full((1, 1, 1, 2), 0.5)).ravel().tolist()
    [0.5, 0.5, 0.0]
    """
    classes, flat = classes[:, :, None], labels.reshape(labels.shape[0], 1, -1)
    return sum(
        jnp.where(_at(flat, index) == classes, weight, 0.0) for index, weight in corners(points, labels.shape[1:])
    )


def labelled_shares(labels: Int[Array, "b h w"], points: Float[Array, "b n p 2"]) -> Float[Array, "b n p"]:
    """Of the pixels around each point, which lies on the image, the share that is not ignored.

    >>> labels = jnp.array([[[3, 255]]])
    >>> points = jnp.array([[0.0, 0.5], [0.5, 0.5], [1.0, 0.5]]).reshape(1, 1, 3, 2)
    >>> labelled_shares(labels, points).ravel().tolist()
    [1.0, 0.5, 0.0]
    """
    flat, labelled, all_ = labels.reshape(labels.shape[0], 1, -1), 0.0, 0.0
    for index, weight in corners(points, labels.shape[1:]):
        labelled += jnp.where(_at(flat, index) == IGNORE_LABEL, 0.0, weight)
        all_ += weight
    return labelled / all_


def corners(points: Float[Array, "b n p 2"], size: tuple[int, int]) -> Iterator[tuple[Array, Array]]:
    """Flat index and weight, both `[b, n, p]`, of the four pixels around each point; weight 0 outside.

    Args:
      points: on the map.
      size: height and width of the map.

    >>> [weight.item() for _, weight in corners(jnp.full((1, 1, 1, 2), 0.5), (1, 2))]
    [0.5, 0.5, 0.0, 0.0]
    """
    h, w = size
    x, y = points[..., 0] * w - 0.5, points[..., 1] * h - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    for down in (0, 1):
        for right in (0, 1):
            i, j = top + down, left + right
            weight = (1 - jnp.abs(y - i)) * (1 - jnp.abs(x - j))
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            index = i.clip(0, h - 1).astype(jnp.int32) * w + j.clip(0, w - 1).astype(jnp.int32)
            yield index, jnp.where(inside, weight, 0.0)


def _at(flat: Array, index: Int[Array, "b #n p"]) -> Array:
    """`[b, n, p]`: of each row of `flat` `[b, #n, m]` the entries `index`."""
    options = {"mode": "promise_in_bounds"}
    if index.shape[1] == 1:
        return jax.vmap(lambda row, i: row.at[:, i].get(**options))(flat, index[:, 0])
    if flat.shape[1] == 1:
        return jax.vmap(lambda row, i: row.at[i].get(**options))(flat[:, 0], index)
    return jax.vmap(jax.vmap(lambda row, i: row.at[i].get(**options)))(flat, index)
