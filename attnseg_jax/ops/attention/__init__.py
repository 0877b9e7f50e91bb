"""Array functions of attention: dot products with a softmax, and one module for each mechanism that needs more.

`dot_product_attention` (Vaswani et al. 2017, arXiv:1706.03762) works on `[b, n, a, d]` with the softmax in float32.
`dense` and `chunked` run everywhere, `cudnn` and `splash` are the kernels of GPUs and TPUs, and `dispatch` chooses.
Time and memory are in `docs/performance.md`.

The modules of the mechanisms are `axial`, `criss_cross`, `danet`, `deformable`, `ema`, `encnet`, `interlaced`,
`linear`, `local`, `nmf`, `non_local`, `ocr`, `psa` and `window`. Functions whose name says what they do without the
module stand here too.
"""

from attnseg_jax.ops.attention.criss_cross import criss_cross_attention, criss_cross_weights
from attnseg_jax.ops.attention.danet import channel_attention, channel_weights
from attnseg_jax.ops.attention.deformable import deformable_attention, point_shares
from attnseg_jax.ops.attention.dense import attention_weights
from attnseg_jax.ops.attention.dispatch import IMPLS, check_impl, dot_product_attention
from attnseg_jax.ops.attention.ema import em_attention
from attnseg_jax.ops.attention.linear import linear_attention
from attnseg_jax.ops.attention.local import local_average, local_weights
from attnseg_jax.ops.attention.non_local import dot_product_average
from attnseg_jax.ops.attention.ocr import region_means, region_weights

__all__ = [
    "IMPLS",
    "attention_weights",
    "channel_attention",
    "channel_weights",
    "check_impl",
    "criss_cross_attention",
    "criss_cross_weights",
    "deformable_attention",
    "dot_product_attention",
    "dot_product_average",
    "em_attention",
    "linear_attention",
    "local_average",
    "local_weights",
    "point_shares",
    "region_means",
    "region_weights",
]
