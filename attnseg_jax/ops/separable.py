"""Linear maps that act on the rows and the columns of an image independently."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.symbolic import surely


def apply_separable(
    x: Float[Array, "b h w c"],
    rows: Float[np.ndarray | Array, "i h"] | None,
    columns: Float[np.ndarray | Array, "j w"] | None,
) -> Float[Array, "b i j c"]:
    """`rows @ x @ columns.T` in every channel; None leaves that axis alone. Computed in float32, returned in x's dtype.

    >>> x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    >>> apply_separable(x, np.full((1, 2), 0.5), None).ravel().tolist()
    [1.5, 2.5, 3.5]
    """
    dtype = x.dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32))
    # The axis that grows more goes last: the other product then reads less.
    if rows is not None and columns is not None and surely(lambda: _grows_less(rows, columns)):
        x = _on_columns(_on_rows(x, rows), columns)
    else:
        x = _on_rows(_on_columns(x, columns), rows)
    return x.astype(dtype)


def _grows_less(rows, columns):
    return rows.shape[0] * columns.shape[1] < columns.shape[0] * rows.shape[1]


def _on_rows(x, matrix):
    if matrix is None:
        return x
    b, h, w, c = x.shape
    # One copy of the matrix for each image makes the product leave its result in place; without, XLA transposes it.
    copies = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (b, *matrix.shape))
    return exact_product("bih,bhx->bix", copies, x.reshape(b, h, w * c)).reshape(b, matrix.shape[0], w, c)


def _on_columns(x, matrix):
    return x if matrix is None else exact_product("jw,bhwc->bhjc", jnp.asarray(matrix, x.dtype), x)


def exact_product(subscripts: str, matrix: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`jnp.einsum` whose interpolation weights are not rounded to bfloat16, as matrix units would by default.

    >>> exact_product("jw,wc->jc", jnp.array([[0.5, 0.5]]), jnp.array([[1.0], [3.0]])).item()
    2.0
    """
    return jnp.einsum(subscripts, matrix, x, precision=lax.Precision.HIGHEST)
