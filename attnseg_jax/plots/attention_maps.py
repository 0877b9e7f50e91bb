"""From attention records (`attnseg_jax.models.records`) to arrays that can be drawn; no `n x m` array is ever made."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnseg_jax.models.records import AttentionMap, DotProductMap, SampledMap

WeightRecord = AttentionMap | DotProductMap | SampledMap
"""A record of weights, not of a gate."""
_CHUNK = 1 << 24
"""How many weights are computed at a time: 64 MiB of them."""


def position(point: tuple[int, int], image_size: tuple[int, int], map_size: tuple[int, int]) -> int:
    """Number `y * width + x` of the position on a map that pixel (y, x) of the image belongs to.

    >>> position((63, 50), image_size=(64, 96), map_size=(8, 12))
    90
    """
    y, x = (p * m // i for p, m, i in zip(point, map_size, image_size))
    return y * map_size[1] + x


def weights_shape(record: WeightRecord) -> tuple[int, int, int, int]:
    """(b, a, n, s) of all the weights, without computing them."""
    return jax.eval_shape(lambda x: x.weights, record).shape


def on_map(
    rows: Float[np.ndarray, "*b r s"], keys: Int[np.ndarray, "r s"] | None, size: tuple[int, int]
) -> Float[np.ndarray, "*b r y x"]:
    """Rows of weights as maps of `size`: a weight is added at the position of its key; those of keys -1 are left out.

    >>> on_map(np.array([[0.5, 0.25, 0.25]]), np.array([[5, -1, 0]]), (2, 3))
    array([[[0.25, 0.  , 0.  ],
            [0.  , 0.  , 0.5 ]]])
    """
    if keys is not None:
        sparse, rows = rows, np.zeros((*rows.shape[:-1], size[0] * size[1]), rows.dtype)
        for row, where in enumerate(keys):
            inside = where >= 0
            np.add.at(rows[..., row, :], (..., where[inside]), sparse[..., row, inside])
    return rows.reshape(*rows.shape[:-1], *size)


def heat_maps(record: WeightRecord, queries: Int[np.ndarray, "r"]) -> Float[np.ndarray, "b a r y x"]:
    """What some queries, by their numbers, look at: `[b, a, r, y, x]` on the map of `key_size`, which there must be."""
    keys = None if record.keys is None else np.asarray(record.keys)[queries]
    return on_map(np.asarray(record.rows(jnp.asarray(queries))), keys, record.key_size)


def key_maps(record: WeightRecord) -> Float[np.ndarray, "b a s h w"]:
    """How much every pixel attends to each of `s` keys that are no pixels, such as regions."""
    rows = np.concatenate([np.asarray(_rows(record, queries)) for queries in _chunks(record)], axis=2)
    return np.moveaxis(rows.reshape(*rows.shape[:2], *record.query_size, rows.shape[3]), -1, 2)


def relative_entropy(record: WeightRecord) -> Float[np.ndarray, "b a n"]:
    """How widely each query looks: the entropy of its weights, divided by the largest that its number of keys allows.

    0 where all weight is on one key, 1 where all keys weigh the same. A key outside the map counts only if it has
    weight. NaN where the weights are no distribution: all are 0, or some are negative.
    """
    chunks = [np.asarray(_relative_entropy(record, queries)) for queries in _chunks(record)]
    return np.concatenate(chunks, axis=2)


def _chunks(record: WeightRecord) -> Iterator[Int[np.ndarray, "r"]]:
    _, a, n, s = weights_shape(record)
    step = max(1, _CHUNK // (a * s))
    return (np.arange(start, min(start + step, n)) for start in range(0, n, step))


@jax.jit
def _rows(record: WeightRecord, queries: Int[Array, "r"]) -> Float[Array, "b a r s"]:
    return record.rows(queries)


@jax.jit
def _relative_entropy(record: WeightRecord, queries: Int[Array, "r"]) -> Float[Array, "b a r"]:
    rows = record.rows(queries)
    total = rows.sum(-1, keepdims=True)
    share = rows / jnp.where(total == 0, 1.0, total)
    entropy = -jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1.0)), 0.0).sum(-1)
    counted = jnp.ones_like(rows, bool)
    if record.keys is not None:
        counted = (rows > 0) | (jnp.take(jnp.asarray(record.keys), queries, axis=0) >= 0).reshape(1, 1, *rows.shape[2:])
    # A query with a single key attends as narrowly as can be: 0, not 0 / 0.
    count = jnp.maximum(counted.sum(-1), 2)
    distribution = (total[..., 0] > 0) & (rows >= 0).all(-1)
    return jnp.where(distribution, entropy / jnp.log(count), jnp.nan)
