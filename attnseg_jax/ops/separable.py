"""Linear maps that act on the rows and the columns of an image independently."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.platforms import is_portable, target_platform
from attnseg_jax.ops.symbolic import surely

# Input positions of an output position, as bicubic interpolation has them.
_FEW = 4


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
    return x if matrix is None else _product(x, matrix, 1, _of_rows)


def _on_columns(x, matrix):
    return x if matrix is None else _product(x, matrix, 2, _of_columns)


def _product(x: Array, matrix: np.ndarray | Array, axis: int, product: Callable) -> Array:
    """`product(x, matrix)` along an axis; on a CPU by the few input positions that a row of the matrix has weights for.

    That reads each number once or twice. The gradient, and what is computed where there will be one, are products: the
    transpose of a gather is a scatter, which is slower than either.
    """
    # An exported program is for any platform.
    few = None if target_platform() != "cpu" or is_portable() else _few(matrix)
    if few is None:
        return product(x, matrix)

    @jax.custom_jvp
    def gathered(x):
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        parts = (jnp.take(x, at, axis=axis, mode="clip") * jnp.asarray(w, x.dtype).reshape(shape) for at, w in few)
        return functools.reduce(jnp.add, parts)

    @gathered.defjvp
    def _(primals, tangents):
        return tuple(product(*of, matrix) for of in (primals, tangents))

    return gathered(x)


def _few(matrix: np.ndarray | Array) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Places and weights of all rows' first, second ... position with a weight; None where some have many."""
    if not isinstance(matrix, np.ndarray) or (count := (matrix != 0).sum(1).max()) > _FEW:
        return None
    places = np.argsort(matrix == 0, axis=1, kind="stable")[:, :count]
    return list(zip(places.T, np.take_along_axis(matrix, places, 1).T))


def _of_rows(x, matrix):
    b, h, w, c = x.shape
    # One copy of the matrix for each image makes the product leave its result in place; without, XLA transposes it.
    copies = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (b, *matrix.shape))
    return exact_product("bih,bhx->bix", copies, x.reshape(b, h, w * c)).reshape(b, matrix.shape[0], w, c)


def _of_columns(x, matrix):
    return exact_product("jw,bhwc->bhjc", jnp.asarray(matrix, x.dtype), x)


def exact_product(subscripts: str, matrix: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`jnp.einsum` whose interpolation weights are not rounded to bfloat16, as matrix units would by default.

    >>> exact_product("jw,wc->jc", jnp.array([[0.5, 0.5]]), jnp.array([[1.0], [3.0]])).item()
    2.0
    """
    return jnp.einsum(subscripts, matrix, x, precision=lax.Precision.HIGHEST)
