"""XLA's own convolution and its gradients, as JAX derives them: what `conv`, `dense` and `depthwise` have forms beside.

`axes` are those of rows and columns throughout.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from attnseg_jax.ops.axis import Axis


def plain_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw _ o"], axes: Sequence[Axis], groups: int = 1
) -> Float[Array, "b i j o"]:
    """The cross-correlation of `x` with `kernel` `[kh, kw, c / groups, o]`.

    >>> axes = Axis(1, 1, 1, (0, 0), 1), Axis(2, 1, 1, (0, 1), 3)
    >>> plain_conv(jnp.ones((1, 1, 3, 2)), jnp.ones((1, 2, 2, 1)), axes).ravel().tolist()
    [4.0, 4.0, 2.0]
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=[axis.stride for axis in axes],
        padding=[axis.sides for axis in axes],
        rhs_dilation=[axis.dilation for axis in axes],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def plain_input_gradient(
    kernel: Float[Array, "kh kw _ o"], g: Float[Array, "b i j o"], axes: Sequence[Axis], groups: int = 1
) -> Float[Array, "b h w c"]:
    """The gradient of `plain_conv` by `x`, from that of its result.

    >>> axes = Axis(1, 1, 1, (0, 0), 1), Axis(2, 1, 1, (0, 1), 3)
    >>> plain_input_gradient(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 3, 1)), axes)[..., 0].ravel().tolist()
    [1.0, 2.0, 2.0]
    """
    # `zeros_like`, here and below, so that the type says over which mesh axes it varies, as `shard_map` wants it.
    x = jnp.zeros_like(g, shape=(len(g), *(axis.size for axis in axes), kernel.shape[2] * groups))
    return jax.linear_transpose(lambda x: plain_conv(x, kernel, axes, groups), x)(g)[0]


def plain_kernel_gradient(
    x: Float[Array, "b h w c"], g: Float[Array, "b i j o"], axes: Sequence[Axis], groups: int = 1
) -> Float[Array, "kh kw _ o"]:
    """The gradient of `plain_conv` by its kernel, from that of its result.

    >>> axes = Axis(1, 1, 1, (0, 0), 1), Axis(2, 1, 1, (0, 1), 3)
    >>> plain_kernel_gradient(jnp.ones((1, 1, 3, 1)), jnp.ones((1, 1, 3, 1)), axes).ravel().tolist()
    [3.0, 2.0]
    """
    shape = (*(axis.taps for axis in axes), x.shape[-1] // groups, g.shape[-1])
    kernel = jnp.zeros_like(g, shape=shape)
    return jax.linear_transpose(lambda kernel: plain_conv(x, kernel, axes, groups), kernel)(g)[0]
