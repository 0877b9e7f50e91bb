"""Convolution and normalisation as linen modules around `attnseg_jax.ops`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.ops import conv as conv_ops
from attnseg_jax.ops import norm as norm_ops
from attnseg_jax.ops.pointwise import linear
from attnseg_jax.ops.pool import pair

Dtype = jnp.dtype | type

he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
he_normal = nn.initializers.he_normal()
# Of depthwise kernels: the fan-out of one filter, not of all of them together.
he_normal_depthwise = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# PyTorch's own. Queries and keys that are compared without a scale need it: fan-out scaling makes the first softmax
# one-hot, and a one-hot softmax has no gradient.
torch_default_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# Small, so that the first loss is that of a uniform guess; fan-out scaling would make it several times larger.
classifier_init = nn.initializers.normal(0.01)


class ConvOptions(nn.Module):
    """What modules around a convolution have alike.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel, one number for both or one for each.
      stride: step in both directions.
      padding: zeros on every side, or `((top, bottom), (left, right))`; -1 keeps the size at stride 1
        (`dilation * (kernel_size // 2)`), which needs an odd kernel.
      dilation: distance of the kernel's taps.
      groups: channel groups.
      use_bias: adds a bias.
      kernel_init: initialiser of the kernel `[kh, kw, c / groups, features]`.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    stride: int = 1
    padding: int | conv_ops.Sides = -1
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    dtype: Dtype = jnp.float32
    kernel_init: Callable = he_normal_fan_out


_CONV_OPTIONS = [field.name for field in dataclasses.fields(ConvOptions) if field.name not in ("parent", "name")]


class Conv(ConvOptions):
    """Convolution with PyTorch's explicit padding."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        """Convolves `x`."""
        size = pair(self.kernel_size)
        kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1] // self.groups, self.features), jnp.float32)
        if self.padding == -1 and any(n % 2 == 0 for n in size):
            raise ValueError(f"no padding keeps the size under a kernel of {self.kernel_size} pixels: give one")
        padding = tuple(self.dilation * (n // 2) for n in size) if self.padding == -1 else self.padding
        y = conv_ops.conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None]
        return y


def classifier(num_classes: int, name: str, kernel_size: int = 1, init: Callable = classifier_init) -> Conv:
    """A convolution to logits; float32 whatever the compute type, since scores are summed and compared."""
    return Conv(num_classes, kernel_size, use_bias=True, dtype=jnp.float32, kernel_init=init, name=name)


def _shared_over(axis_name: str) -> bool:
    """Whether a mapped axis of this name, of several devices, encloses the current trace."""
    try:
        return jax.lax.axis_size(axis_name) > 1
    except NameError:
        return False


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics (the stored variance is the unbiased one).

    Statistics are float32 whatever the compute type. They are averaged over the devices when the mapped axis
    `attnseg_jax.ops.norm.DATA_AXIS` encloses the call; under `jit` over a mesh they are global by themselves.

    Attributes:
      momentum: weight of the batch's statistics in the running ones (PyTorch's sense).
      epsilon: added to the variance.
      dtype: type of the output.
      scale_init: initialiser of the scale.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Normalises `x` by its batch (`train`) or by the running statistics."""
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            y = norm_ops.batch_norm_inference(x, scale, bias, mean.value, var.value, eps=self.epsilon)
            return y.astype(self.dtype)
        axis_name = norm_ops.DATA_AXIS if _shared_over(norm_ops.DATA_AXIS) else None
        y, new_mean, new_var = norm_ops.batch_norm(
            x, scale, bias, mean.value, var.value, momentum=self.momentum, eps=self.epsilon, axis_name=axis_name
        )
        if not self.is_initializing():
            mean.value, var.value = new_mean, new_var
        return y.astype(self.dtype)


def _linear(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    return linear(x, kernel)


Dense = functools.partial(nn.Dense, dot_general=_linear)
"""`nn.Dense` with the gradients of `ops.pointwise.linear`."""


def layer_norm(name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
    """Layer normalisation in float32 by two passes; flax's default, one pass, loses what is small beside its mean."""
    return nn.LayerNorm(epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


class ConvBN(ConvOptions):
    """Convolution, batch normalisation and an activation.

    Attributes as in `ConvOptions`, and:
      activation: applied last; None leaves the result linear.
      momentum, epsilon: of the normalisation, as in `BatchNorm`.
    """

    activation: Callable | None = nn.relu
    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j o"]:
        """Applies convolution, normalisation and activation."""
        options = {name: getattr(self, name) for name in _CONV_OPTIONS}
        x = Conv(**options, name="conv")(x)
        x = BatchNorm(self.momentum, self.epsilon, dtype=self.dtype, name="bn")(x, train=train)
        return x if self.activation is None else self.activation(x)
