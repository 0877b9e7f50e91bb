"""Non-negative matrix factorisation (Lee & Seung 2000) of tokens, as in Hamburger (Geng et al. 2021), in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPSILON = 1e-6


def nmf_attention(
    x: Float[Array, "b n c"], bases: Float[Array, "#b c r"], *, steps: int, one_step_gradient: bool = False
) -> tuple[Float[Array, "b n c"], Float[Array, "b n r"]]:
    """Tokens rebuilt from a few non-negative bases that were fitted to them, O(steps n c r).

    Coefficients start as the softmax over the bases of `x . bases` (scaled to unit length over the channels). A step
    multiplies the coefficients, then the bases, by the ratio that brings `coefficients . bases` nearer to `x`; the
    coefficients take one step more than the bases. arXiv:2109.04553, github.com/Gsunshine/Enjoy-Hamburger; this is the
    form of mmsegmentation's `ham_head.py`.

    Args:
      x: tokens; at least 0.
      bases: where to start from; at least 0.
      steps: how many, at least 0.
      one_step_gradient: no gradient passes but that of the last step, as in Hamburger; by all of them in SegNeXt.

    Returns:
      The tokens `[b, n, c]` rebuilt, and the coefficients `[b, n, r]`, at least 0. Both float32.

    Raises:
      ValueError: fewer than 0 steps.

    >>> x = jnp.array([[[3.0, 0.0], [0.0, 2.0]]])
    >>> y, coefficients = nmf_attention(x, jnp.array([[[0.9, 0.1], [0.1, 0.9]]]), steps=200)
    >>> y.round(2).tolist()
    [[[3.0, 0.0], [0.0, 2.0]]]
    """
    if steps < 0:
        raise ValueError(f"steps={steps}: there must be at least 0")
    x, bases = x.astype(jnp.float32), bases.astype(jnp.float32)
    bases = bases / jnp.maximum(jnp.sqrt(jnp.square(bases).sum(axis=1, keepdims=True)), 1e-12)
    bases = jnp.broadcast_to(bases, (x.shape[0], *bases.shape[1:]))
    coefficients = jax.nn.softmax(jnp.einsum("bnc,bcr->bnr", x, bases), axis=-1)
    for _ in range(steps):
        coefficients = _closer(coefficients, x, bases)
        # The same rule with tokens and channels in each other's place.
        bases = _closer(bases, x.swapaxes(1, 2), coefficients)
    if one_step_gradient:
        coefficients, bases = jax.lax.stop_gradient((coefficients, bases))
    coefficients = _closer(coefficients, x, bases)
    return jnp.einsum("bnr,bcr->bnc", coefficients, bases), coefficients


def _closer(left: Float[Array, "b i r"], x: Float[Array, "b i j"], right: Float[Array, "b j r"]) -> Array:
    """The left factor after a multiplicative update towards `left . right = x`."""
    gram = jnp.einsum("bjr,bjs->brs", right, right)
    return left * jnp.einsum("bij,bjr->bir", x, right) / (jnp.einsum("bir,brs->bis", left, gram) + _EPSILON)
