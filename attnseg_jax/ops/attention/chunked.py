"""Exact attention in blocks of queries: memory grows with the number of tokens instead of its square.

Forward and backward follow FlashAttention-2 (Dao 2023, arXiv:2307.08691): the forward pass keeps the logarithm of every
softmax's denominator, from which the backward pass computes the weights again, block by block. A block holds whole
rows of scores, so that there is no running maximum to correct. Only heads and queries are looped over: the batch stays
an axis of every product, so that a batch spread over devices stays where it is.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from attnseg_jax.ops.varying import varying_together

# Scores computed at once. On CPU they stay in the cache; elsewhere a loop of larger steps has less to launch.
_SCORES = {"cpu": 2**21}
_SCORES_ELSEWHERE = 2**25
_MIN_ROWS = 64


def chunked(q, k, v, bias=None, mask=None, scale=None, rows=None):
    """`dot_product_attention` in blocks of `rows` queries, by default as many as fit in the cache."""
    (b, n, _, d), m = q.shape, k.shape[1]
    if rows is None:
        scores = _SCORES.get(jax.default_backend(), _SCORES_ELSEWHERE)
        blocks = -(-n // max(_MIN_ROWS, scores // (b * m)))
        rows = -(-n // blocks)
    arrays = varying_together(q, k, v, bias, mask)
    return _attend(*arrays, d**-0.5 if scale is None else float(scale), min(rows, n))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q, k, v, bias, mask, scale, rows):
    return _forward(q, k, v, bias, mask, scale, rows)[0]


def _forward(q, k, v, bias, mask, scale, rows):
    """Returns the attended values and, for the backward pass, all that they came from."""
    b, n, a, _ = q.shape

    def head(h, results):
        q_head, k_head, v_head = (_head(t, h) for t in (q, k, v))
        k_head = jnp.swapaxes(k_head, 1, 2)

        def block(i, results):
            out, logs = results
            # The last block reaches back to be whole; it writes some rows again.
            start = jnp.minimum(i * rows, n - rows)
            scores = _scores(
                _rows(q_head, start, rows), k_head, scale, _part(bias, h, start, rows), _part(mask, h, start, rows)
            )
            shift = scores.max(axis=-1, keepdims=True)
            shift = jnp.where(jnp.isneginf(shift), 0.0, shift)
            weights = jnp.exp(scores - shift)
            total = weights.sum(axis=-1, keepdims=True)
            empty = total == 0
            values = _product(weights.astype(v.dtype), v_head) / jnp.where(empty, 1.0, total)
            # With an infinite denominator the backward pass gives an empty row no weights either.
            log = jnp.where(empty, jnp.inf, shift + jnp.log(total))
            out = lax.dynamic_update_slice(out, values.astype(out.dtype)[:, :, None], (0, start, h, 0))
            return out, lax.dynamic_update_slice(logs, log[:, None], (0, h, start, 0))

        return lax.fori_loop(0, -(-n // rows), block, results)

    zeros = jnp.zeros_like(v, shape=(b, n, a, v.shape[-1])), jnp.zeros_like(v, jnp.float32, (b, a, n, 1))
    out, logs = lax.fori_loop(0, a, head, zeros)
    return out, (q, k, v, bias, mask, out, logs)


def _backward(scale, rows, saved, d_out):
    q, k, v, bias, mask, out, logs = saved
    n, a = q.shape[1:3]

    def head(h, gradients):
        q_head, k_head, v_head, d_head = (_head(t, h) for t in (q, k, v, d_out))
        log_head = lax.dynamic_index_in_dim(logs, h, 1, keepdims=False)
        # What all weights of a row have in common of their gradient.
        mean = (_head(out, h).astype(jnp.float32) * d_head.astype(jnp.float32)).sum(-1, keepdims=True)
        # Products are fast when the block's rows or the head's width come first: hence both orders of axes.
        k_across, v_across = jnp.swapaxes(k_head, 1, 2), jnp.swapaxes(v_head, 1, 2)

        def block(i, results):
            d_q, d_k, d_v, d_bias = results
            start = jnp.minimum(i * rows, n - rows)
            # Rows that the last block repeats must not count twice.
            new = (start + jnp.arange(rows) >= i * rows).reshape(1, rows, 1)
            q_rows, d_rows = _rows(q_head, start, rows), jnp.where(new, _rows(d_head, start, rows), 0)
            mean_rows = jnp.where(new, _rows(mean, start, rows), 0)
            scores = _scores(q_rows, k_across, scale, _part(bias, h, start, rows), _part(mask, h, start, rows))
            weights = jnp.exp(scores - _rows(log_head, start, rows))
            d_scores = weights * (_product(d_rows, v_across) - mean_rows)
            if bias is not None:
                d_bias = _add(d_bias, _summed(d_scores, bias), _origin(bias, h, start))
            d_v = d_v + _product(jnp.swapaxes(d_rows, 1, 2), weights.astype(v.dtype))
            d_scores = d_scores.astype(q.dtype)
            d_k = d_k + _product(jnp.swapaxes(q_rows, 1, 2), d_scores)
            d_q = _add(d_q, (_product(d_scores, k_head) * scale)[:, :, None], (0, start, h, 0))
            return d_q, d_k, d_v, d_bias

        d_q, d_k, d_v, d_bias = gradients
        across = jnp.zeros_like(k_across, jnp.float32), jnp.zeros_like(v_across, jnp.float32)
        d_q, k_sum, v_sum, d_bias = lax.fori_loop(0, -(-n // rows), block, (d_q, *across, d_bias))
        d_k = lax.dynamic_update_index_in_dim(d_k, (jnp.swapaxes(k_sum, 1, 2) * scale).astype(k.dtype), h, 2)
        d_v = lax.dynamic_update_index_in_dim(d_v, jnp.swapaxes(v_sum, 1, 2).astype(v.dtype), h, 2)
        return d_q, d_k, d_v, d_bias

    zeros = *(jnp.zeros_like(t) for t in (q, k, v)), bias if bias is None else jnp.zeros_like(bias, jnp.float32)
    d_q, d_k, d_v, d_bias = lax.fori_loop(0, a, head, zeros)
    return d_q, d_k, d_v, bias if bias is None else d_bias.astype(bias.dtype), None


_attend.defvjp(_forward, _backward)


def _head(tokens, h):
    """Head `h` of `[b, n, a, d]`: `[b, n, d]`."""
    return lax.dynamic_index_in_dim(tokens, h, 2, keepdims=False)


def _rows(tokens, start, rows):
    return lax.dynamic_slice_in_dim(tokens, start, rows, 1)


def _product(x, y):
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def _origin(array, h, start):
    """Where a block of head `h` begins in a bias or mask, whose axes may be 1."""
    return 0, h if array.shape[1] > 1 else 0, start if array.shape[2] > 1 else 0, 0


def _part(array, h, start, rows):
    """The block `[#b, #rows, #m]` of a bias or mask `[#b, #a, #n, #m]`."""
    if array is None:
        return None
    b, _, n, m = array.shape
    return lax.dynamic_slice(array, _origin(array, h, start), (b, 1, min(n, rows), m))[:, 0]


def _scores(q, k_across, scale, bias, mask):
    scores = _product(q, k_across) * scale
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    return scores if mask is None else jnp.where(mask, scores, -jnp.inf)


def _summed(d_scores, bias):
    """Gradient `[b, rows, m]` of the scores, summed over what the bias has only one of: `[#b, 1, #rows, #m]`."""
    axes = tuple(axis for axis, size in enumerate((bias.shape[0], *bias.shape[2:])) if size == 1)
    return d_scores.sum(axes, keepdims=True)[:, None]


def _add(total, part, origin):
    old = lax.dynamic_slice(total, origin, part.shape)
    return lax.dynamic_update_slice(total, old + part.astype(total.dtype), origin)
