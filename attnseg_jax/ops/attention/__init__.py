"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) on `[b, n, a, d]`, softmax in float32.

`dense` and `chunked` run everywhere, `cudnn` and `splash` are the kernels of GPUs and TPUs; `dispatch` chooses.
"""

from attnseg_jax.ops.attention.dense import attention_weights
from attnseg_jax.ops.attention.dispatch import IMPLS, check_impl, dot_product_attention

__all__ = ["IMPLS", "attention_weights", "check_impl", "dot_product_attention"]
