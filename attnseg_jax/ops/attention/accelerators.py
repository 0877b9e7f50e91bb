"""The attention kernels of GPUs and TPUs, and when they cannot serve."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from attnseg_jax.ops.attention.chunked import chunked
from attnseg_jax.ops.linear_map import linear_map
from attnseg_jax.ops.norm import DATA_AXIS
from attnseg_jax.ops.platforms import target_devices, target_platform

_LANES, _MAX_BLOCK = 128, 512
_HALF = ("bfloat16", "float16")


def cudnn(q, k, v, bias=None, mask=None, scale=None):
    """`dot_product_attention` by cuDNN's flash attention. A bias and a mask are expanded to `[#b, #a, n, m]` for it.

    Not yet run on hardware.
    """

    def kernel(q, k, v, bias, mask):
        tokens = (q.shape[1], k.shape[1])
        bias, mask = (x if x is None else jnp.broadcast_to(x, (*x.shape[:2], *tokens)) for x in (bias, mask))
        return jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, implementation="cudnn")

    return _without_empty_rows(with_all_derivatives(kernel, scale)(q, k, v, bias, mask), mask)


def cudnn_refusal(dtype=None, widths=None, tokens=None, bias_or_mask=False):
    """Why cuDNN cannot serve, or None; what is not known yet is not held against it."""
    platform, here = target_platform(), jax.local_devices()[0]
    at_hand = platform == jax.default_backend()
    if platform != "gpu" or (at_hand and "cuda" not in here.client.platform_version):
        return f"needs an NVIDIA GPU, and this process runs on {platform}"
    capability = getattr(here, "compute_capability", None) if at_hand else None
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

    The kernel belongs to one device. Under `jax.set_mesh` of a mesh that has the axis `DATA_AXIS` every device runs it
    on its own part of the batch; inside `pmap` or `shard_map(check_vma=False)` it runs as it is. It takes masks of keys
    only, as segments; the padding that completes its tiles is more of masked keys.
    """

    def kernel(q, k, v, bias, mask):
        return _splash_kernel(q, k, v, mask, scale, interpret)

    if _batch_axis(q):
        rows = [PartitionSpec(DATA_AXIS if x is not None and x.shape[0] > 1 else None) for x in (q, k, v, bias, mask)]
        kernel = jax.shard_map(kernel, in_specs=tuple(rows), out_specs=rows[0], check_vma=False)
    return _without_empty_rows(with_all_derivatives(kernel, scale)(q, k, v, None, mask), mask)


def splash_refusal(bias=False, mask_shape=None):
    """Why splash attention cannot serve, or None."""
    if (platform := target_platform()) != "tpu":
        return f"needs a TPU, and this process runs on {platform}"
    if bias:
        return "takes no bias"
    if mask_shape is not None and mask_shape[1:3] != (1, 1):
        return f"takes masks of keys [#b, 1, 1, m] only, not {mask_shape}"
    return None


def knows_its_device(q) -> bool:
    """Whether a kernel that XLA cannot split may be called here: it runs on one device, or can tell what each gets."""
    axes = jax.sharding.get_abstract_mesh().axis_types
    if axes and all(kind == AxisType.Manual for kind in axes):
        # A Pallas kernel does not say over which mesh axes it varies, which `shard_map(check_vma=True)` insists on.
        kind = jax.typeof(q)
        return not getattr(getattr(kind, "manual_axis_type", kind), "varying", getattr(kind, "vma", ()))
    return _batch_axis(q) if axes else target_devices() == 1


def _batch_axis(q):
    """Whether the mesh of `jax.set_mesh` splits the batch evenly and leaves it to the compiler how."""
    mesh = jax.sharding.get_abstract_mesh()
    automatic = all(kind == AxisType.Auto for kind in mesh.axis_types)
    return DATA_AXIS in mesh.axis_names and automatic and q.shape[0] % mesh.shape[DATA_AXIS] == 0


def with_all_derivatives(kernel: Callable, scale: float | None) -> Callable:
    """`kernel(q, k, v, bias, mask)` with its own gradient and, where it has none, the derivatives of `chunked`.

    The kernels have a gradient, but neither forward mode nor second derivatives.
    """

    def reference(mask, *arrays):
        return chunked(*arrays, mask, scale)

    @jax.custom_jvp
    def attend(q, k, v, bias, mask):
        return kernel(q, k, v, bias, mask)

    @jax.custom_jvp
    def attend_and_pull(q, k, v, bias, mask):
        """Also returns, as a pytree, the function from cotangents to gradients."""
        return jax.vjp(lambda *arrays: kernel(*arrays, mask), q, k, v, bias)

    @jax.custom_jvp
    def pulled(arrays, mask, pull, g):
        return pull(g)

    @pulled.defjvp
    def pulled_jvp(primals, tangents):
        (arrays, mask, _, g), (d_arrays, _, _, d_g) = primals, tangents

        def gradient(arrays, g):
            return jax.vjp(lambda *arrays: reference(mask, *arrays), *arrays)[1](g)

        return pulled(*primals), jax.jvp(gradient, (arrays, g), (d_arrays, d_g))[1]

    def forward(residuals, tangents):
        arrays, mask, _ = residuals
        return jax.jvp(lambda *arrays: reference(mask, *arrays), arrays, tangents)[1]

    def transpose(residuals, g):
        return pulled(*residuals, g)

    @attend_and_pull.defjvp
    def attend_and_pull_jvp(primals, tangents):
        out, pull = attend_and_pull(*primals)
        d_out = linear_map(forward, transpose, (primals[:4], primals[4], pull), tangents[:4])
        # What the gradient of a derivative needs of these comes from `chunked`.
        return (out, pull), (d_out, jax.tree.map(_no_tangent, pull))

    @attend.defjvp
    def attend_jvp(primals, tangents):
        (out, _), (d_out, _) = attend_and_pull_jvp(primals, tangents)
        return out, d_out

    return attend


def _no_tangent(x):
    return jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.zeros(x.shape, jax.dtypes.float0)


def _splash_kernel(q, k, v, mask, scale, interpret):
    # Pallas is slow to import, and only TPUs need it.
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
    return jnp.swapaxes(jax.vmap(kernel)(q, k, v, segments)[:, :, :n], 1, 2)


def _padded(tokens, block):
    """`[b, n, a, d]` as the kernel takes it: `[b, a, n, d]` with whole blocks of tokens."""
    tokens = jnp.swapaxes(tokens, 1, 2)
    return jnp.pad(tokens, ((0, 0), (0, 0), (0, -tokens.shape[2] % block), (0, 0)))


def _block(size):
    """Length of the tiles of `size` tokens: a multiple of 128 up to 512."""
    tiles = -(-size // _MAX_BLOCK)
    return -(-size // (tiles * _LANES)) * _LANES


def _without_empty_rows(out, mask):
    """Zeros for the queries that may attend to nothing; the kernels give them the mean of all values."""
    return out if mask is None else jnp.where(jnp.swapaxes(mask.any(-1, keepdims=True), 1, 2), out, 0)
