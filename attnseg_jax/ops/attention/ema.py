"""Expectation-maximisation attention (Li et al. 2019, arXiv:1907.13426; github.com/XiaLiPKU/EMANet), in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPSILON = 1e-6


def em_attention(
    x: Float[Array, "b n c"], bases: Float[Array, "#b c k"], *, stages: int = 3
) -> tuple[Float[Array, "b n c"], Float[Array, "b n k"], Float[Array, "b c k"]]:
    """Tokens rebuilt from a few bases that were fitted to them, O(stages n c k).

    A stage assigns every token to the bases, `z = softmax(x . bases)` over `k`, and replaces each base by the mean of
    the tokens under its share of the assignments, scaled to unit length over the channels.

    Args:
      x: tokens.
      bases: where to start from.
      stages: how many times, at least once.

    Returns:
      The tokens `[b, n, c]` rebuilt by the last assignments from the last bases; the assignments `[b, n, k]`, whose
      rows sum to 1; the bases `[b, c, k]`. All float32.

    Raises:
      ValueError: no stage at all.

    >>> x = jnp.eye(2)[None]
    >>> _, weights, bases = em_attention(x, 9.0 * jnp.eye(2)[None], stages=1)
    >>> weights.round(2).tolist(), bases.round(2).tolist()
    ([[[1.0, 0.0], [0.0, 1.0]]], [[[1.0, 0.0], [0.0, 1.0]]])
    """
    if stages < 1:
        raise ValueError(f"stages={stages}: there must be at least 1")
    x = x.astype(jnp.float32)
    bases = jnp.broadcast_to(bases.astype(jnp.float32), (x.shape[0], *bases.shape[1:]))
    for _ in range(stages):
        weights = jax.nn.softmax(jnp.einsum("bnc,bck->bnk", x, bases), axis=-1)
        shares = weights / (_EPSILON + weights.sum(axis=1, keepdims=True))
        bases = jnp.einsum("bnc,bnk->bck", x, shares)
        # A base of zeros has length 0, where the root has no gradient.
        squares = jnp.maximum(jnp.square(bases).sum(axis=1, keepdims=True), 1e-30)
        bases = bases / (_EPSILON + jnp.sqrt(squares))
    return jnp.einsum("bnk,bck->bnc", weights, bases), weights, bases
