"""Expectation-maximisation attention (Li et al. 2019, arXiv:1907.13426; github.com/XiaLiPKU/EMANet)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_least
from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Conv, ConvBN, Dtype
from attnseg_jax.models.records import AttentionMap
from attnseg_jax.ops.attention.ema import em_attention


def _initial_bases(key: Array, shape: tuple[int, int, int]) -> Array:
    """Random directions, float32: Kaiming-normal numbers, scaled to unit length over the channels."""
    bases = math.sqrt(2 / shape[2]) * jax.random.normal(key, shape)
    return bases / (1e-6 + jnp.sqrt(jnp.square(bases).sum(axis=1, keepdims=True)))


class EMAUnit(nn.Module):
    """`relu(x + bn(conv2(relu(em(conv1(x))))))` with bases that follow a moving average over the training batches.

    No gradient passes the iterations, as in the original, so `conv1` keeps its initial values but for weight decay. The
    bases `mu` live in `batch_stats`; each device averages over its own images and the train step over the devices, so
    that the moving average is that of the whole batch.

    Attributes:
      bases: number of bases.
      stages: iterations.
      momentum: weight of a batch's mean bases in the stored ones (PyTorch's sense; 1 minus the original's `EM_MOM`).
      dtype: compute type; the iterations are float32.
    """

    bases: int = 64
    stages: int = 3
    momentum: float = 0.1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b n k"], Float[Array, "b c k"]]:
        """Returns the map, the assignments of its positions to the bases, and the bases fitted to each image."""
        b, h, w, c = x.shape
        mu = self.variable("batch_stats", "mu", lambda: _initial_bases(self.make_rng("params"), (1, c, self.bases)))
        y = Conv(c, 1, use_bias=True, dtype=self.dtype, name="conv1")(x).reshape(b, h * w, c)
        y, weights, fitted = em_attention(jax.lax.stop_gradient(y), mu.value, stages=self.stages)
        if train and not self.is_initializing():
            mean = fitted.mean(axis=0, keepdims=True)
            mu.value = (1 - self.momentum) * mu.value + self.momentum * mean
        y = nn.relu(y).astype(self.dtype).reshape(x.shape)
        y = ConvBN(c, 1, relu=False, dtype=self.dtype, name="conv2")(y, train=train)
        return nn.relu(x + y), weights, fitted


class ExpectationMaximization(Attention):
    """Positions rebuilt from a few bases fitted to each image, O(stages n k c), after a 3x3 convolution as in EMANet.

    Li et al. 2019, arXiv:1907.13426 (github.com/XiaLiPKU/EMANet). The original's 3x3 convolution after it is the one of
    the decoder `fcn`.

    Attributes:
      channels: of the 3x3 convolution (512 in the original); 0 keeps the map's, but takes at most 512.
      bases: number of bases.
      stages: iterations.
      momentum: weight of a batch's mean bases in the stored ones (PyTorch's sense; 1 minus the original's `EM_MOM`).
      dtype: compute type; the iterations are float32.
    """

    channels: int = 0
    bases: int = 64
    stages: int = 3
    momentum: float = 0.1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map rebuilt; `attention['ema0']` assigns its pixels to the bases.

        Raises:
          UserError: no bases or no iterations, or another option out of its range.
        """
        path = "config.model.attention.ema"
        check_least(path, 1, bases=self.bases, stages=self.stages)
        check_least(path, 0, channels=self.channels)
        if not 0 <= self.momentum <= 1:
            raise UserError(f"{path}.momentum={self.momentum} must be from 0 to 1: it is the weight in a mean")
        x = features.deepest
        x = ConvBN(lead_width(self.channels, x), dtype=self.dtype, name="lead")(x, train=train)
        unit = EMAUnit(self.bases, self.stages, self.momentum, self.dtype, name="unit")
        x, weights, _ = unit(x, train=train)
        features = features.with_attention("ema", AttentionMap(weights[:, None], query_size=x.shape[1:3]))
        return features.with_deepest(x)
