"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) on `[b, n, a, d]`, softmax in float32.

`dense` and `chunked` run everywhere, `cudnn` and `splash` are the kernels of GPUs and TPUs; `dispatch` chooses. On 2
CPU cores, float32, 8 heads of width 64, with gradient in brackets (`python benchmarks/attention.py --tokens 4096
16384 65536 --torch=PYTHON`; plain is two products around `jax.nn.softmax`):

| tokens | | plain | dense | chunked | PyTorch 2.13 |
|---|---|---|---|---|---|
| 4096 | seconds | 0.81 (2.57) | 0.42 (2.00) | 0.13 (0.44) | 0.20 (0.71) |
| | temporary MiB | 1024 (2064) | 1032 (2056) | 19 (32) | |
| 16384 | seconds | | | 2.2 (7.0) | 3.1 (10.7) |
| | temporary MiB | | 16416 (32801) | 28 (53) | |
| 65536 | temporary MiB | | 262272 (524420) | 80 (163) | |
"""

from attnseg_jax.ops.attention.dense import attention_weights
from attnseg_jax.ops.attention.dispatch import IMPLS, check_impl, dot_product_attention

__all__ = ["IMPLS", "attention_weights", "check_impl", "dot_product_attention"]
