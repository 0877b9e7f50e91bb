"""How attention is computed: as it is asked for, or in the best way for this backend, type and size."""

import logging

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from attnseg_jax.errors import OptionError, nearest
from attnseg_jax.ops.attention.accelerators import cudnn, cudnn_refusal, knows_its_device, splash, splash_refusal
from attnseg_jax.ops.attention.chunked import chunked
from attnseg_jax.ops.attention.dense import dense
from attnseg_jax.ops.attention.shapes import check_shapes
from attnseg_jax.ops.platforms import is_portable, target_platform
from attnseg_jax.ops.symbolic import is_symbolic

_FUNCTIONS = {"dense": dense, "chunked": chunked, "cudnn": cudnn, "splash": splash}
IMPLS = ("auto", *_FUNCTIONS)
# Up to this many scores in all, dense attention is the faster one: measured on CPU, a guess elsewhere.
_DENSE_SCORES = {"cpu": 2**20}
_DENSE_SCORES_ELSEWHERE = 2**26
# A kernel's tile is 128 tokens long: below that it mostly computes padding.
_KERNEL_TOKENS = 128
# Queries at a time where their number is not known.
_CHUNK = 256
_LOG = logging.getLogger("attnseg_jax.ops.attention")
_REPORTED = set()


def dot_product_attention(
    q: Float[Array, "b n a d"],
    k: Float[Array, "b m a d"],
    v: Float[Array, "b m a e"],
    *,
    bias: Float[Array, "#b #a #n #m"] | None = None,
    mask: Bool[Array, "#b #a #n #m"] | None = None,
    scale: float | None = None,
    impl: str = "auto",
) -> Float[Array, "b n a e"]:
    """Mean of the values `v`, weighted by the softmax over keys `m` of `scale * q . k + bias`.

    Args:
      q: queries `[b, n, a, d]`.
      k: keys `[b, m, a, d]`.
      v: values `[b, m, a, e]`; their width may differ from the keys'.
      bias: added to the scores; `[b, a, n, m]`, or 1 in place of any of these.
      mask: True where a query may attend to a key; shaped like `bias`. A query that may attend to nothing gives zeros.
      scale: factor of the scores, by default `d ** -0.5`; a number, not an array.
      impl: `dense`, `chunked` (blocks of queries, memory linear in n and m), `cudnn`, `splash`, or `auto`, which takes
        the best for the backend, type and size and logs once what it took. All are exact and have derivatives of
        every mode and order for `q`, `k`, `v` and `bias`.

    Returns:
      `[b, n, a, e]` in the dtype of `v`; the softmax is in float32 whatever the inputs are.

    Raises:
      ValueError: shapes that do not fit together.
      OptionError: an unknown `impl`, or one that cannot serve here.

    >>> x = jnp.eye(3).reshape(1, 3, 1, 3)
    >>> dot_product_attention(x, x, x, scale=100.0).argmax(-1).ravel().tolist()
    [0, 1, 2]
    """
    check_shapes(q, k, v, bias, mask)
    if is_portable():
        return _portable(q, k, v, bias, mask, scale)
    if impl == "auto":
        impl = _choose(q, k, v, bias, mask)
    else:
        check_impl(impl, **_facts(q, k, v, bias, mask))
    return _FUNCTIONS[impl](q, k, v, bias, mask, scale)


def check_impl(
    impl: str,
    *,
    dtype: DTypeLike | None = None,
    widths: tuple[int, int] | None = None,
    tokens: tuple[int, int] | None = None,
    bias: bool = False,
    mask_shape: tuple[int, ...] | None = None,
) -> None:
    """Refuse an `impl` that is unknown or cannot serve on this backend, from what is known so far.

    Args:
      impl: what `dot_product_attention` is going to be asked for.
      dtype: type of queries, keys and values; None, here and below, where it is not known yet.
      widths: of a head's keys and values, `(d, e)`.
      tokens: numbers of queries and keys, `(n, m)`.
      bias: whether there is one.
      mask_shape: shape of the mask, None without one.

    Raises:
      OptionError: with the reason and a hint.

    >>> check_impl("chunked", dtype="float32", widths=(64, 32))
    >>> check_impl("chunkd")
    Traceback (most recent call last):
    attnseg_jax.errors.OptionError: impl='chunkd' is unknown: did you mean 'chunked'?
    """
    if impl not in IMPLS:
        raise OptionError("impl", impl, f"is unknown: {nearest(impl, IMPLS)}")
    reason = _refusal(impl, dtype, widths, tokens, bias, mask_shape)
    if reason:
        raise OptionError("impl", impl, f"{reason}: choose 'auto' or 'chunked'")


def _facts(q, k, v, bias, mask):
    return {
        "dtype": q.dtype,
        "widths": (k.shape[-1], v.shape[-1]),
        "tokens": (q.shape[1], k.shape[1]),
        "bias": bias is not None,
        "mask_shape": None if mask is None else mask.shape,
    }


def _refusal(impl, dtype, widths, tokens, bias, mask_shape):
    if impl == "cudnn":
        return cudnn_refusal(dtype, widths, tokens, bias or mask_shape is not None)
    return splash_refusal(bias, mask_shape) if impl == "splash" else None


def _portable(q, k, v, bias, mask, scale):
    """Attention in the form that suits any platform: dense where it is small, else by chunks."""
    n, m = q.shape[1], k.shape[1]
    if not is_symbolic(n, m):
        return (chunked if _is_large(q, k, _DENSE_SCORES["cpu"]) else dense)(q, k, v, bias, mask, scale)
    if bias is not None or mask is not None:
        return dense(q, k, v, bias, mask, scale)
    # There may be fewer queries than a chunk has.
    padded = jnp.pad(q, [(0, 0), (0, _CHUNK * ((n + _CHUNK - 1) // _CHUNK) - n), (0, 0), (0, 0)])
    return chunked(padded, k, v, scale=scale, rows=_CHUNK)[:, :n]


def _is_large(q, k, limit):
    """Whether there are more scores than `limit`; of a batch of any size those of one image count."""
    (b, n, a, _), m = q.shape, k.shape[1]
    return (b if isinstance(b, int) else 1) * a * n * m > limit


def _choose(q, k, v, bias, mask):
    """The kernel of an accelerator if it can serve, else dense attention if it is small, else chunked."""
    backend = target_platform()
    n, m = q.shape[1], k.shape[1]
    impl = {"gpu": "cudnn", "tpu": "splash" if knows_its_device(q) else None}.get(backend)
    if impl is None or min(n, m) < _KERNEL_TOKENS or _refusal(impl, **_facts(q, k, v, bias, mask)):
        impl = "chunked" if _is_large(q, k, _DENSE_SCORES.get(backend, _DENSE_SCORES_ELSEWHERE)) else "dense"
    choice = (impl, backend, q.dtype.name)
    if choice not in _REPORTED:
        _REPORTED.add(choice)
        _LOG.info("attention on %s in %s: %s (first for %d queries and %d keys)", *choice[1:], impl, n, m)
    return impl
