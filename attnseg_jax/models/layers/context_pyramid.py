"""Pyramids of pooled maps: DDRNet's (Pan et al. 2022, arXiv:2101.06085), PIDNet's (Xu et al. 2023, 2206.02066)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.layers.conv import BatchNorm, Conv, Dtype
from attnseg_jax.models.layers.gates import pooled
from attnseg_jax.ops.pool import centred_avg_pool
from attnseg_jax.ops.resize import resize

# Windows and strides of the pooled branches; one more has the mean of the whole map.
_POOLS = ((5, 2), (9, 4), (17, 8))


class NormConv(nn.Module):
    """Batch normalisation, ReLU and a convolution without a bias, in this order.

    Attributes:
      features: output channels.
      kernel_size: of the convolution.
      groups: of the convolution.
    """

    features: int
    kernel_size: int = 1
    groups: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w o"]:
        """Applies normalisation, ReLU and convolution."""
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train=train))
        return Conv(self.features, self.kernel_size, groups=self.groups, dtype=self.dtype, name="conv")(x)


class ContextPyramid(nn.Module):
    """The narrowed map beside its means over ever larger windows, all mixed; plus a 1x1 convolution of the map.

    Each branch is added to the narrowed map and convolved; with `serial` (DDRNet's DAPPM) to the branch before it, one
    after the other, otherwise (PIDNet's PAPPM) all at once in groups. After mmsegmentation's `utils/ppm.py`.

    Attributes:
      channels: of a branch.
      features: output channels.
      serial: which form.
    """

    channels: int
    features: int
    serial: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w o"]:
        """Returns the map with its context."""

        def conv(features: int, name: str, x: Array, *shape: int) -> Array:
            return NormConv(features, *shape, dtype=self.dtype, name=name)(x, train=train)

        first = conv(self.channels, "branch0", x)
        means = [centred_avg_pool(x, kernel, stride) for kernel, stride in _POOLS] + [pooled(x).astype(x.dtype)]
        branches = [resize(conv(self.channels, f"branch{i}", mean), x.shape[1:3]) for i, mean in enumerate(means, 1)]
        if self.serial:
            parts = [first]
            for i, branch in enumerate(branches, 1):
                parts.append(conv(self.channels, f"process{i}", branch + parts[-1], 3))
        else:
            together = jnp.concatenate([branch + first for branch in branches], axis=-1)
            parts = [first, conv(together.shape[-1], "process", together, 3, len(branches))]
        y = conv(self.features, "compress", jnp.concatenate(parts, axis=-1))
        return y + conv(self.features, "shortcut", x)
