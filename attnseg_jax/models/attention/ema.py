"""Expectation-maximisation attention (Li et al. 2019, arXiv:1907.13426; github.com/XiaLiPKU/EMANet)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.layers.conv import Conv, ConvBN
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, sow_record
from attnseg_jax.ops.attention.ema import em_attention


def _initial_bases(key: Array, shape: tuple[int, int, int]) -> Array:
    """Random directions, float32: Kaiming-normal numbers, scaled to unit length over the channels."""
    bases = math.sqrt(2 / shape[2]) * jax.random.normal(key, shape)
    return bases / (1e-6 + jnp.sqrt(jnp.square(bases).sum(axis=1, keepdims=True)))


class ExpectationMaximization(Attention):
    """Positions rebuilt from a few bases fitted to each image, O(stages n k c), after a 3x3 convolution as in EMANet.

    The original's 3x3 convolution after it is the one of the decoder `fcn`.

    Attributes:
      channels: of the 3x3 convolution (512 in the original); 0 keeps the map's, but takes at most 512.
      bases: number of bases.
      stages: iterations.
      momentum: weight of a batch's mean bases in the stored ones (PyTorch's sense; 1 minus the original's `EM_MOM`).
    """

    channels: int = option(0, at_least=0)
    bases: int = option(64, at_least=1, at_most=4096)
    stages: int = option(3, at_least=1, at_most=100)
    momentum: float = option(0.1, at_least=0, at_most=1)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w _c"]:
        """Returns the rebuilt map; the record `ema` assigns its pixels to the bases."""
        x = ConvBN(lead_width(self.channels, x), dtype=self.dtype, name="lead")(x, train=train)
        return self.unit(x, train=train)

    @nn.compact
    def unit(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """`relu(x + bn(conv2(relu(em(conv1(x))))))` with bases that follow a moving average over the training batches.

        No gradient passes the iterations, as in the original, so `conv1` keeps its initial values but for weight decay.
        The bases `mu` live in `batch_stats`; each device averages over its own images and the train step over the
        devices, so that the moving average is that of the whole batch. The iterations are float32.
        """
        b, h, w, c = x.shape
        mu = self.variable("batch_stats", "mu", lambda: _initial_bases(self.make_rng("params"), (1, c, self.bases)))
        y = Conv(c, 1, use_bias=True, dtype=self.dtype, name="conv1")(x).reshape(b, h * w, c)
        y, weights, fitted = em_attention(jax.lax.stop_gradient(y), mu.value, stages=self.stages)
        sow_record(self, "ema", AttentionMap(weights[:, None], query_size=(h, w)))
        if train and not self.is_initializing():
            mean = fitted.mean(axis=0, keepdims=True)
            mu.value = (1 - self.momentum) * mu.value + self.momentum * mean
        y = nn.relu(y).astype(self.dtype).reshape(x.shape)
        y = ConvBN(c, 1, activation=None, dtype=self.dtype, name="conv2")(y, train=train)
        return nn.relu(x + y)
