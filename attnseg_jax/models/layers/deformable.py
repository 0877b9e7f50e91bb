"""Multi-scale deformable attention as a module (Zhu et al. 2021, arXiv:2010.04159), as Mask2Former has it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.attention import head_width
from attnseg_jax.models.layers.conv import Dense, Dtype
from attnseg_jax.models.records import SampledMap, Size, sow_record
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.symbolic import numpy_of

_xavier = nn.initializers.xavier_uniform()


def centres(sizes: Sequence[tuple[int, int]]) -> Float[Array, "m 2"]:
    """Where the positions of maps lie in the picture: `(x, y)` in [0, 1], row by row, map after map.

    >>> centres([(1, 2), (1, 1)]).tolist()
    [[0.25, 0.5], [0.75, 0.5], [0.5, 0.5]]
    """
    found = []
    for h, w in sizes:
        xp = numpy_of(h, w)
        y = xp.broadcast_to(((xp.arange(h) + 0.5) / h)[:, None], (h, w))
        x = xp.broadcast_to(((xp.arange(w) + 0.5) / w)[None], (h, w))
        found.append(jnp.stack([x, y], axis=-1).reshape(h * w, 2).astype(jnp.float32))
    return jnp.concatenate(found)


def compass(heads: int, levels: int, points: int) -> Float[np.ndarray, " o"]:
    """The offsets, in pixels, with which training begins: each head looks in a direction of its own, 1, 2, ... far.

    >>> compass(4, 1, 2).reshape(4, 2, 2)[1].round(6).tolist()  # downwards
    [[0.0, 1.0], [0.0, 2.0]]
    """
    angle = np.arange(heads) * (2 * np.pi / heads)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= abs(direction).max(axis=-1, keepdims=True)
    offsets = direction[:, None, None] * np.arange(1, points + 1)[:, None]
    return np.broadcast_to(offsets, (heads, levels, points, 2)).reshape(-1).astype(np.float32)


class DeformableAttention(nn.Module):
    """Each query looks at a few points around its own place on every map, where and how much it says itself.

    Offsets and weights are linear in the query, float32 whatever the compute type, since a pixel of a large map is a
    small fraction of it; weights pass a softmax over maps and points together.

    Attributes:
      heads: number of heads, a divisor of the channels.
      points: of each head on each map.
      record: name that what every query looks at is recorded under, for a single map; "" records nothing.
    """

    heads: int
    points: int = 4
    dtype: Dtype = jnp.float32
    record: str = ""

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "b n c"],
        values: Float[Array, "b m c"],
        places: Float[Array, "n 2"],
        sizes: tuple[tuple[int, int], ...],
        *,
        query_size: Size = None,
    ) -> Float[Array, "b n c"]:
        """Returns what the queries gather.

        Args:
          query: tokens that look.
          values: of the positions of all maps, row by row, map after map.
          places: of the queries in the picture, as of `centres`.
          sizes: height and width of each map.
          query_size: height and width of the map that the queries are of, for the record.
        """
        (b, n, c), a, p, maps = query.shape, self.heads, self.points, len(sizes)
        d = head_width(c, a)

        def linear(features: int, name: str, bias: np.ndarray | float = 0.0) -> Array:
            init = nn.initializers.zeros, lambda *_: jnp.broadcast_to(jnp.asarray(bias, jnp.float32), features)
            dense = Dense(features, dtype=jnp.float32, kernel_init=init[0], bias_init=init[1], name=name)
            return dense(query.astype(jnp.float32))

        offsets = linear(a * maps * p * 2, "offsets", compass(a, maps, p)).reshape(b, n, a, maps, p, 2)
        weights = jax.nn.softmax(linear(a * maps * p, "weights").reshape(b, n, a, maps * p))
        weights = weights.reshape(b, n, a, maps, p)
        scale = jnp.stack([jnp.asarray(side, jnp.float32) for h, w in sizes for side in (w, h)])
        places = places[None, :, None, None, None]
        locations = places + offsets / scale.reshape(1, 1, 1, maps, 1, 2)
        y = Dense(c, dtype=self.dtype, kernel_init=_xavier, name="value")(values)
        y = attention_ops.deformable_attention(y.reshape(*y.shape[:2], a, d), locations, weights, tuple(sizes))
        if maps == 1:
            sow_record(self, self.record, SampledMap(locations[:, :, :, 0], weights[:, :, :, 0], query_size, sizes[0]))
        return Dense(c, dtype=self.dtype, kernel_init=_xavier, name="out")(y.reshape(b, n, c))
