"""Linear maps that act on the rows and the columns of an image independently."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def apply_separable(
    x: Float[Array, "b h w c"], rows: Float[np.ndarray, "i h"] | None, columns: Float[np.ndarray, "j w"] | None
) -> Float[Array, "b i j c"]:
    """`rows @ x @ columns.T` in every channel; None leaves that axis alone. Computed in float32, returned in x's dtype.

    >>> x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    >>> apply_separable(x, np.full((1, 2), 0.5), None).ravel().tolist()
    [1.5, 2.5, 3.5]
    """
    dtype = x.dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32))

    def on_rows(x):
        return x if rows is None else _product("ih,bhwc->biwc", rows, x)

    def on_columns(x):
        return x if columns is None else _product("jw,bhwc->bhjc", columns, x)

    # The map that shrinks, or grows less, goes first: the other one then has less to read.
    rows_first = _growth(rows) < _growth(columns)
    x = on_columns(on_rows(x)) if rows_first else on_rows(on_columns(x))
    return x.astype(dtype)


def _growth(matrix):
    return 1.0 if matrix is None else matrix.shape[0] / matrix.shape[1]


def _product(subscripts, matrix, x):
    # Interpolation weights must not be rounded to bfloat16, as matrix units would by default.
    return jnp.einsum(subscripts, jnp.asarray(matrix, x.dtype), x, precision=lax.Precision.HIGHEST)
