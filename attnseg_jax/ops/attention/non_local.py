"""Attention without a softmax, whose products may be taken in any order."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def dot_product_average(
    q: Float[Array, "b n a d"], k: Float[Array, "b m a d"], v: Float[Array, "b m a e"]
) -> Float[Array, "b n a e"]:
    """Mean over the keys `m` of `(q . k) v`: the dot-product form of Wang et al. 2018 (arXiv:1711.07971).

    It is `q (k^T v) / m`, so time and memory are linear in `n` and `m`; `k^T v` is summed in float32. The
    result has the dtype of `v`.

    >>> x = jnp.arange(3.0).reshape(1, 3, 1, 1)
    >>> dot_product_average(x, x, x).ravel().tolist()
    [0.0, 1.6666666269302368, 3.3333332538604736]
    """
    context = jnp.einsum("bmad,bmae->bade", k, v, preferred_element_type=jnp.float32) / k.shape[1]
    out = jnp.einsum("bnad,bade->bnae", q, context.astype(q.dtype), preferred_element_type=jnp.float32)
    return out.astype(v.dtype)
