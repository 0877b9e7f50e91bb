"""Exact attention in blocks of queries: memory grows with the number of tokens instead of its square.

Result and gradient follow FlashAttention-2 (Dao 2023, arXiv:2307.08691): what is kept beside the result is the
logarithm of every softmax's denominator, from which the gradient computes the weights again, block by block; the
tangent of forward mode does the same. A block holds whole rows of scores, so that there is no running maximum to
correct. Only heads and queries are looped over: the batch stays an axis of every product, so that a batch split over
devices stays where it is.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from attnseg_jax.ops.linear_map import linear_map
from attnseg_jax.ops.platforms import target_platform
from attnseg_jax.ops.symbolic import is_symbolic
from attnseg_jax.ops.varying import varying_together

# Scores computed at once. On CPU they stay in the cache; elsewhere a loop of larger steps has less to launch.
_SCORES = {"cpu": 2**21}
_SCORES_ELSEWHERE = 2**25
_MIN_ROWS = 64


def chunked(q, k, v, bias=None, mask=None, scale=None, rows=None):
    """`dot_product_attention` in blocks of `rows` queries, by default as many as fit in the cache."""
    (b, n, _, d), m = q.shape, k.shape[1]
    if rows is None:
        scores = _SCORES.get(target_platform(), _SCORES_ELSEWHERE)
        # Of a batch of any size, as exported programs have, one image is what counts.
        blocks = -(-n // max(_MIN_ROWS, scores // ((b if isinstance(b, int) else 1) * m)))
        rows = -(-n // blocks)
    arrays = varying_together(q, k, v, bias, mask)
    rows = rows if is_symbolic(n) else min(rows, n)
    return _attend(*arrays, d**-0.5 if scale is None else float(scale), rows)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _attend(q, k, v, bias, mask, scale, rows):
    """The attended values `[b, n, a, e]` and the logarithms `[b, a, n, 1]` of the denominators."""
    b, n, a, _ = q.shape

    def head(h, results):
        q_head, k_head, v_head = (_head(t, h) for t in (q, k, v))
        k_across = jnp.swapaxes(k_head, 1, 2)

        def block(i, results):
            out, logs = results
            start = _start(i, rows, n)
            scores = _scores(_rows(q_head, start, rows), k_across, scale, bias, mask, (h, start, rows))
            shift = scores.max(axis=-1, keepdims=True)
            shift = jnp.where(jnp.isneginf(shift), 0.0, shift)
            weights = jnp.exp(scores - shift)
            total = weights.sum(axis=-1, keepdims=True)
            empty = total == 0
            values = _product(weights.astype(v.dtype), v_head) / jnp.where(empty, 1.0, total)
            # With an infinite denominator an empty row has no weights in derivatives either.
            log = jnp.where(empty, jnp.inf, shift + jnp.log(total))
            return _put(out, values, h, start), lax.dynamic_update_slice(logs, log[:, None], (0, h, start, 0))

        return lax.fori_loop(0, -(-n // rows), block, results)

    zeros = jnp.zeros_like(v, shape=(b, n, a, v.shape[-1])), jnp.zeros_like(v, jnp.float32, (b, a, n, 1))
    return lax.fori_loop(0, a, head, zeros)


@functools.partial(_attend.defjvp, symbolic_zeros=True)
def _attend_jvp(scale, rows, primals, tangents):
    results = _attend(*primals, scale, rows)
    zero = [isinstance(tangent, jax.custom_derivatives.SymbolicZero) for tangent in tangents]
    d_q, d_k, d_v = (jnp.zeros_like(x) if z else t for x, t, z in zip(primals[:3], tangents, zero))
    d_bias = None if primals[3] is None or zero[3] else tangents[3]
    forward = functools.partial(_tangent, scale, rows)
    transpose = functools.partial(_gradient, scale, rows, d_bias is not None)
    return results, linear_map(forward, transpose, (*primals, *results), (d_q, d_k, d_v, d_bias))


def _tangent(scale, rows, residuals, tangents):
    """The tangents of both results of `_attend`."""
    q, k, v, bias, mask, out, logs = residuals
    d_q, d_k, d_v, d_bias = tangents
    n, a = q.shape[1:3]

    def head(h, results):
        q_head, k_head, v_head, d_q_head, d_k_head, d_v_head = (_head(t, h) for t in (q, k, v, d_q, d_k, d_v))
        log_head = lax.dynamic_index_in_dim(logs, h, 1, keepdims=False)
        k_across, d_k_across = jnp.swapaxes(k_head, 1, 2), jnp.swapaxes(d_k_head, 1, 2)

        def block(i, results):
            d_out, d_logs = results
            start = _start(i, rows, n)
            place = h, start, rows
            q_rows = _rows(q_head, start, rows)
            weights = jnp.exp(_scores(q_rows, k_across, scale, bias, mask, place) - _rows(log_head, start, rows))
            d_scores = (_product(_rows(d_q_head, start, rows), k_across) + _product(q_rows, d_k_across)) * scale
            if d_bias is not None:
                d_scores = d_scores + _part(d_bias, *place).astype(jnp.float32)
            d_weights = weights * d_scores
            d_log = d_weights.sum(axis=-1, keepdims=True)
            d_weights = (d_weights - weights * d_log).astype(v.dtype)
            values = _product(d_weights, v_head) + _product(weights.astype(v.dtype), d_v_head)
            return _put(d_out, values, h, start), lax.dynamic_update_slice(d_logs, d_log[:, None], (0, h, start, 0))

        return lax.fori_loop(0, -(-n // rows), block, results)

    return lax.fori_loop(0, a, head, (jnp.zeros_like(out), jnp.zeros_like(logs)))


def _gradient(scale, rows, of_bias, residuals, cotangents):
    """The transpose of `_tangent`: gradients of queries, keys, values and, where it is wanted, the bias."""
    q, k, v, bias, mask, out, logs = residuals
    d_out, d_logs = cotangents
    n, a = q.shape[1:3]

    def head(h, gradients):
        q_head, k_head, v_head, d_head = (_head(t, h) for t in (q, k, v, d_out))
        log_head = lax.dynamic_index_in_dim(logs, h, 1, keepdims=False)
        # What all weights of a row have in common of their gradient.
        mean = (_head(out, h).astype(jnp.float32) * d_head.astype(jnp.float32)).sum(-1, keepdims=True)
        mean = mean - lax.dynamic_index_in_dim(d_logs, h, 1, keepdims=False)
        # Products are fast when the block's rows or the head's width come first: hence both orders of axes.
        k_across, v_across = jnp.swapaxes(k_head, 1, 2), jnp.swapaxes(v_head, 1, 2)

        def block(i, results):
            d_q, d_k, d_v, d_bias = results
            start = _start(i, rows, n)
            # Rows that the last block repeats must not count twice.
            new = (start + jnp.arange(rows) >= i * rows).reshape(1, rows, 1)
            q_rows, d_rows = _rows(q_head, start, rows), jnp.where(new, _rows(d_head, start, rows), 0)
            mean_rows = jnp.where(new, _rows(mean, start, rows), 0)
            weights = jnp.exp(
                _scores(q_rows, k_across, scale, bias, mask, (h, start, rows)) - _rows(log_head, start, rows)
            )
            d_scores = weights * (_product(d_rows, v_across) - mean_rows)
            if of_bias:
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

    zeros = *(jnp.zeros_like(t) for t in (q, k, v)), jnp.zeros_like(bias, jnp.float32) if of_bias else None
    d_q, d_k, d_v, d_bias = lax.fori_loop(0, a, head, zeros)
    return d_q, d_k, d_v, d_bias.astype(bias.dtype) if of_bias else None


def _head(tokens, h):
    """Head `h` of `[b, n, a, d]`: `[b, n, d]`."""
    return lax.dynamic_index_in_dim(tokens, h, 2, keepdims=False)


def _rows(tokens, start, rows):
    return lax.dynamic_slice_in_dim(tokens, start, rows, 1)


def _start(i, rows, n):
    """First query of block `i`. The last block reaches back to be whole; what it writes again is the same."""
    return jnp.minimum(i * rows, n - rows)


def _put(tokens, values, h, start):
    """`tokens` `[b, n, a, e]` with `values` `[b, rows, e]` in place of a block of head `h`."""
    return lax.dynamic_update_slice(tokens, values.astype(tokens.dtype)[:, :, None], (0, start, h, 0))


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


def _scores(q_rows, k_across, scale, bias, mask, place):
    """Scores `[b, rows, m]` of the block at `place`: head, first query, number of queries."""
    scores = _product(q_rows, k_across) * scale
    if bias is not None:
        scores = scores + _part(bias, *place).astype(jnp.float32)
    return scores if mask is None else jnp.where(_part(mask, *place), scores, -jnp.inf)


def _summed(d_scores, bias):
    """Gradient `[b, rows, m]` of the scores, summed over what the bias has only one of: `[#b, 1, #rows, #m]`."""
    axes = tuple(axis for axis, size in enumerate((bias.shape[0], *bias.shape[2:])) if size == 1)
    return d_scores.sum(axes, keepdims=True)[:, None]


def _add(total, part, origin):
    old = lax.dynamic_slice(total, origin, part.shape)
    return lax.dynamic_update_slice(total, old + part.astype(total.dtype), origin)
