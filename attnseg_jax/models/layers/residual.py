"""What the residual branches of transformers and ConvNeXt share: MLP, LayerScale, stochastic depth; dropout."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.layers.conv import Conv, Dense, Dtype, he_normal_depthwise
from attnseg_jax.ops.gelu import gelu


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Rates that grow linearly from 0 in the first of `depth` blocks to `rate` in the last (Huang et al. 2016).

    >>> drop_path_rates(0.5, 3)
    [0.0, 0.25, 0.5]
    """
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def drop_path(branch: Float[Array, "b *n c"], rate: float, *, train: bool) -> Float[Array, "b *n c"]:
    """In training zeros a whole image's branch at this rate and makes up for it in the others; called in a module."""
    return nn.Dropout(rate, broadcast_dims=tuple(range(1, branch.ndim)), deterministic=not train)(branch)


def drop_channels(x: Float[Array, "b h w c"], rate: float, *, train: bool) -> Float[Array, "b h w c"]:
    """Dropout of whole channels, in training; called in a module."""
    return nn.Dropout(rate, broadcast_dims=(1, 2), deterministic=not train)(x)


def scale_channels(
    module: nn.Module, name: str, branch: Float[Array, "b *n c"], initial: float
) -> Float[Array, "b *n c"]:
    """LayerScale (Touvron et al. 2021, arXiv:2103.17239): the branch times a parameter of `module` per channel."""
    scale = module.param(name, nn.initializers.constant(initial), (branch.shape[-1],), jnp.float32)
    return branch * scale.astype(branch.dtype).reshape((1,) * (branch.ndim - 1) + (-1,))


def mlp_width(channels: int, ratio: float, field: str = "mlp_ratio") -> int:
    """Hidden channels of an MLP, `ratio` times the map's, which is the option `field`.

    Raises:
      OptionError: there would be none.

    >>> mlp_width(6, 1.5)
    9
    """
    if not channels * ratio >= 1:
        raise OptionError(field, ratio, f"must be at least {1 / channels:g}, one of {channels} channels")
    return int(channels * ratio)


def gated_mlp(x: Float[Array, "b *n c"], width: int, dtype: Dtype) -> Float[Array, "b *n c"]:
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): `mlp_out(silu(mlp_gate(x)) * mlp_in(x))`, of the module it is called in.

    `width` is that of the hidden layer.
    """
    gate = nn.silu(Dense(width, dtype=dtype, name="mlp_gate")(x))
    return Dense(x.shape[-1], dtype=dtype, name="mlp_out")(gate * Dense(width, dtype=dtype, name="mlp_in")(x))


def mlp(
    x: Float[Array, "b *n c"],
    width: int,
    dtype: Dtype,
    *,
    dropout: float = 0.0,
    train: bool = False,
    suffix: str = "",
    inside: Callable[[Array], Array] = lambda hidden: hidden,
) -> Float[Array, "b *n c"]:
    """Two linear layers around an exact GELU, `mlp_in` and `mlp_out`, then `suffix`, of the module it is called in.

    In training `dropout` is the rate at which hidden channels are dropped; `inside` acts on these.
    """
    y = inside(gelu(Dense(width, dtype=dtype, name=f"mlp_in{suffix}")(x)))
    y = nn.Dropout(dropout, deterministic=not train)(y) if dropout else y
    return Dense(x.shape[-1], dtype=dtype, name=f"mlp_out{suffix}")(y)


def conv_mlp(x: Float[Array, "b h w c"], width: int, dtype: Dtype) -> Float[Array, "b h w c"]:
    """`mlp` with a depthwise 3x3 convolution before its GELU, `mlp_conv` of the module it is called in."""
    y = Dense(width, dtype=dtype, name="mlp_in")(x)
    conv = Conv(width, 3, groups=width, use_bias=True, dtype=dtype, kernel_init=he_normal_depthwise, name="mlp_conv")
    return Dense(x.shape[-1], dtype=dtype, name="mlp_out")(gelu(conv(y)))
