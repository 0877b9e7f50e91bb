"""The attention kernels of GPUs and TPUs, and when they cannot serve."""

import jax
import jax.numpy as jnp

_LANES, _MAX_BLOCK = 128, 512
_HALF = ("bfloat16", "float16")


def cudnn(q, k, v, bias=None, mask=None, scale=None):
    """`dot_product_attention` by cuDNN's flash attention. A bias and a mask are spread to `[#b, #a, n, m]` for it.

    Not yet run on hardware.
    """
    tokens = (q.shape[1], k.shape[1])
    spread = [x if x is None else jnp.broadcast_to(x, (*x.shape[:2], *tokens)) for x in (bias, mask)]
    out = jax.nn.dot_product_attention(q, k, v, *spread, scale=scale, implementation="cudnn")
    return _without_empty_rows(out, mask)


def cudnn_refusal(dtype=None, widths=None, tokens=None, bias_or_mask=False):
    """Why cuDNN cannot serve, or None; what is not known yet is not held against it."""
    if "cuda" not in jax.local_devices()[0].client.platform_version:
        return f"needs an NVIDIA GPU, and this process runs on {jax.default_backend()}"
    capability = getattr(jax.local_devices()[0], "compute_capability", None)
    if capability and float(capability) < 8:
        return f"needs an NVIDIA GPU of compute capability 8.0 or more, not {capability}"
    if dtype is not None and jnp.dtype(dtype).name not in _HALF:
        return f"takes half precision only, not {jnp.dtype(dtype).name}"
    if widths is not None and (widths[0] != widths[1] or widths[0] % 8 or widths[0] > 128):
        return (
            f"takes heads of one width for keys and values, a multiple of 8 up to 128, not {widths[0]} and {widths[1]}"
        )
    if bias_or_mask and tokens is not None and (tokens[0] % 2 or tokens[1] % 2):
        return f"takes a bias or mask for even numbers of tokens only, not {tokens[0]} and {tokens[1]}"
    return None


def splash(q, k, v, bias=None, mask=None, scale=None, interpret=False):
    """`dot_product_attention` by the Pallas kernel for TPUs; `interpret` runs it, slowly, elsewhere.

    The kernel belongs to one device: on several, call it inside `pmap` or `shard_map(check_vma=False)`. It takes masks
    of keys only, as segments; the padding that completes its tiles is more of masked keys.
    """
    # Pallas takes a fifth of a second to import, and only TPUs need it.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash_ops

    (b, n, a, d), m = q.shape, k.shape[1]
    block_q, block_m = _block(n), _block(m)
    q = (q.astype(jnp.float32) * (d**-0.5 if scale is None else scale)).astype(q.dtype)
    q, k, v = _padded(q, block_q), _padded(k, block_m), _padded(v, block_m)
    admitted = (
        jnp.ones((b, m), jnp.int32) if mask is None else jnp.broadcast_to(mask[:, 0, 0], (b, m)).astype(jnp.int32)
    )
    keys = jnp.pad(admitted, ((0, 0), (0, k.shape[2] - m)))
    segments = splash_ops.SegmentIds(q=jnp.ones((b, q.shape[2]), jnp.int32), kv=keys)
    kernel = splash_ops.make_splash_mha_single_device(
        splash_ops.MultiHeadMask([splash_ops.FullMask((q.shape[2], k.shape[2]))] * a),
        block_sizes=splash_ops.BlockSizes(
            block_q=block_q,
            block_kv=block_m,
            block_q_dkv=block_q,
            block_kv_dkv=block_m,
            block_kv_dkv_compute=block_m,
            block_q_dq=block_q,
            block_kv_dq=block_m,
        ),
        interpret=interpret,
    )
    out = jax.vmap(kernel)(q, k, v, segments)
    return _without_empty_rows(jnp.swapaxes(out[:, :, :n], 1, 2), mask)


def splash_refusal(bias=False, mask_shape=None):
    """Why splash attention cannot serve, or None."""
    if jax.default_backend() != "tpu":
        return f"needs a TPU, and this process runs on {jax.default_backend()}"
    if bias:
        return "takes no bias"
    if mask_shape is not None and mask_shape[1:3] != (1, 1):
        return f"takes masks of keys [#b, 1, 1, m] only, not {mask_shape}"
    return None


def _padded(tokens, block):
    """`[b, n, a, d]` as the kernel takes it: `[b, a, n, d]` with whole blocks of tokens."""
    tokens = jnp.swapaxes(tokens, 1, 2)
    return jnp.pad(tokens, ((0, 0), (0, 0), (0, -tokens.shape[2] % block), (0, 0)))


def _block(size):
    """Length of the tiles that cover `size` tokens: a multiple of 128 up to 512."""
    tiles = -(-size // _MAX_BLOCK)
    return -(-size // (tiles * _LANES)) * _LANES


def _without_empty_rows(out, mask):
    """Zeros for the queries that may attend to nothing; the kernels give them the mean of all values."""
    return out if mask is None else jnp.where(jnp.swapaxes(mask.any(-1, keepdims=True), 1, 2), out, 0)
