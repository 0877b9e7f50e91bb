"""Attention to the pixels around each pixel, weights and average in one call."""

from attnseg_jax.ops.attention import local


def local_attention(q, k, v, *, kernel, dilation=1, scale=None):
    return local.local_average(
        local.local_weights(q, k, kernel=kernel, dilation=dilation, scale=scale), v, dilation=dilation
    )
