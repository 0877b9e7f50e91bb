"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) on `[b, n, a, d]`, softmax in float32.

`dense` and `chunked` run everywhere, `cudnn` and `splash` are the kernels of GPUs and TPUs; `dispatch` chooses. On 2
CPU cores, float32, 8 heads of width 64, with gradient in brackets (`python benchmarks/attention.py --torch=PYTHON`):

| tokens | | dense | chunked | PyTorch 2.13 |
|---|---|---|---|---|
| 4096 | seconds | 0.35 (1.73) | 0.20 (0.55) | 0.20 (0.70) |
| | temporary MiB | 1032 (2056) | 19 (32) | |
| 16384 | seconds | | 2.2 (7.0) | 3.1 (10.7) |
| | temporary MiB | 16416 (32801) | 28 (53) | |
| 65536 | temporary MiB | 262272 (524420) | 80 (163) | |
"""

from attnseg_jax.ops.attention.dense import attention_weights
from attnseg_jax.ops.attention.dispatch import IMPLS, check_impl, dot_product_attention

__all__ = ["IMPLS", "attention_weights", "check_impl", "dot_product_attention"]
