"""Attention in time and memory linear in the number of tokens, on `[b, n, a, d]`, in float32 whatever the inputs are.

The weight of a key is the product `factor(q) . factor(k)`. Keys and values are therefore multiplied first, into
`[d, e]` numbers, and the weights themselves are never computed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FORMS = ("elu", "softmax", "relu")


def linear_attention(
    q: Float[Array, "b n a d"], k: Float[Array, "b m a d"], v: Float[Array, "b m a e"], *, form: str = "elu"
) -> Float[Array, "b n a e"]:
    """Mean of the values `v`, weighted by the products of `linear_factors`: O(n d e + m d e).

    Values may have another width than keys; the result has their dtype.

    >>> k = jnp.zeros((1, 2, 1, 4))
    >>> linear_attention(k, k, jnp.array([1.0, 2.0]).reshape(1, 2, 1, 1), form="softmax").ravel().tolist()
    [1.5, 1.5]
    """
    q, k = linear_factors(q, k, form=form)
    context = jnp.einsum("bmad,bmae->bade", k, v.astype(jnp.float32))
    return jnp.einsum("bnad,bade->bnae", q, context).astype(v.dtype)


def linear_factors(
    q: Float[Array, "b n a d"], k: Float[Array, "b m a d"], *, form: str = "elu"
) -> tuple[Float[Array, "b n a d"], Float[Array, "b m a d"]]:
    """Non-negative factors of queries and keys, float32; their dot products are weights that sum to 1 over the keys.

    - 'elu' (Katharopoulos et al. 2020, arXiv:2006.16236; github.com/idiap/fast-transformers): `f(q) / (f(q) . sum of
      f(k))` and `f(k)` with `f(x) = elu(x) + 1`; like there 1e-6 is added to the divisor.
    - 'relu' (Cai et al. 2023, EfficientViT, arXiv:2205.14756; timm): likewise with `f(x) = relu(x)` and 1e-5. The
      weights of a query without a positive entry, or that meets none in any key, are 0.
    - 'softmax' (Shen et al. 2021, arXiv:1812.01243; github.com/cmsflash/efficient-attention): the softmax of `q` over
      its channels and the softmax of `k` over the positions: each channel of `k` weighs the whole image.

    Raises:
      ValueError: an unknown form, or shapes that do not fit together.

    >>> q, k = linear_factors(jnp.zeros((1, 2, 1, 4)), jnp.zeros((1, 5, 1, 4)), form="softmax")
    >>> float(q[0, 0, 0, 0]), round(float(k[0, 0, 0, 0]), 6)
    (0.25, 0.2)
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}, known: {', '.join(FORMS)}")
    if q.ndim != 4 or k.ndim != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(f"queries [b, n, a, d] and keys [b, m, a, d] do not fit: {q.shape} and {k.shape}")
    q, k = q.astype(jnp.float32), k.astype(jnp.float32)
    if form == "softmax":
        return jax.nn.softmax(q, axis=-1), jax.nn.softmax(k, axis=1)
    kernel, epsilon = (_elu_plus_one, 1e-6) if form == "elu" else (jax.nn.relu, 1e-5)
    q, k = kernel(q), kernel(k)
    total = (q * k.sum(axis=1, keepdims=True)).sum(axis=-1, keepdims=True)
    return q / (total + epsilon), k


def _elu_plus_one(x):
    # Not `elu(x) + 1`, which rounds small values away.
    return jnp.where(x > 0, x + 1.0, jnp.exp(jnp.minimum(x, 0.0)))
