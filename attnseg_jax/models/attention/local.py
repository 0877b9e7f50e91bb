"""Attention to the pixels around each pixel, of features or of class scores."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_known, check_least
from attnseg_jax.models.attention.base import Attention, Records
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.attention import head_width
from attnseg_jax.models.layers.conv import Dtype, layer_norm
from attnseg_jax.models.records import AttentionMap
from attnseg_jax.ops.attention import local as local_ops
from attnseg_jax.ops.resize import resize

VALUES = ("features", "logits")
_KEY = "config.model.attention.local"


class LocalAttention(Attention):
    """Every pixel attends to the `kernel x kernel` around it: `softmax over them of q . k / sqrt(d)`; O(n kernel^2).

    With `value='features'` the deepest map `x` becomes `x + out(attend(norm(x)))`. With `value='logits'` the map
    stays; the decoder's scores of a pixel become the weighted mean of those around it, several times, the weights being
    the mean over the heads of the same softmax. Queries and keys are taken from the map of `stride` and bilinearly
    resampled to the logits' size. A fine map tells the pixels on the two sides of a contour apart; on the deepest all
    pixels of a neighbourhood resemble each other, and averaging blurs.

    Follows stand-alone self-attention (arXiv:1906.05909), NAT (arXiv:2204.07143, SHI-Labs/NATTEN; here the
    neighbourhood of a border pixel is cut, not shifted inwards) and, for the logits, PAMR (arXiv:2005.08104,
    visinf/1-stage-wseg), with learned similarity.

    Attributes:
      kernel: pixels on a side of the neighbourhood, odd.
      dilation: distance of neighbours in pixels.
      heads: number of heads.
      head_dim: width of a head; 0 divides the channels by the heads.
      channels: the map is first projected to this many channels; 0 keeps the backbone's. For features only.
      value: what is averaged, `features` or `logits`.
      iterations: how often the logits are averaged.
      stride: nominal stride of the map whose pixels are compared; 0 the deepest. For logits only.
      dtype: compute type; softmax, sums and normalisation are float32.
    """

    kernel: int = 7
    dilation: int = 1
    heads: int = 4
    head_dim: int = 0
    channels: int = 0
    value: str = "features"
    iterations: int = 3
    stride: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over; the map of weights goes to `attention['local0']`.

        Raises:
          UserError: an option out of its range; a neighbourhood larger than the map it is initialised on.
        """
        self._check()
        if self.value == "logits":
            return features
        x = features.deepest
        if self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="project")(x)
        y = layer_norm("norm")(x).astype(self.dtype)
        q, k, v = (self._embed(y, name) for name in ("query", "key", "value"))
        weights = self._weights(q, k)
        y = local_ops.local_average(weights, v, dilation=self.dilation)
        y = nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(y.reshape(*y.shape[:3], -1))
        return features.with_deepest(x + y).with_attention("local", self._map(weights))

    @nn.compact
    def refine(self, logits: Float[Array, "b h w k"], features: Features) -> tuple[Float[Array, "b h w k"], Records]:
        """Returns the averaged logits and their map of weights `local`, or the logits where `value` is `features`.

        Raises:
          UserError: an option out of its range; a neighbourhood larger than the logits it is initialised on; the
            backbone has no map of `stride`.
        """
        if self.value != "logits":
            return logits, {}
        x = features.at(self.stride or max(features.maps), f"{_KEY}.stride", "choose one of them, or 0 for the deepest")
        y = layer_norm("refine_norm")(x).astype(self.dtype)
        q, k = (self._embed(y, f"refine_{name}", logits.shape[1:3]) for name in ("query", "key"))
        weights = self._weights(q, k).mean(-1, keepdims=True)
        scores = logits.astype(jnp.float32)[:, :, :, None]
        for _ in range(self.iterations):
            scores = local_ops.local_average(weights, scores, dilation=self.dilation)
        return scores[:, :, :, 0], {"local": self._map(weights)}

    def _embed(self, x: Array, name: str, size: tuple[int, int] | None = None) -> Array:
        d = head_width(x.shape[-1], self.heads, self.head_dim, key=f"{_KEY}.heads")
        y = nn.Dense(self.heads * d, dtype=self.dtype, name=name)(x)
        y = y if size is None else resize(y, size)
        return y.reshape(*y.shape[:3], self.heads, d)

    def _weights(self, q: Array, k: Array) -> Array:
        h, w = q.shape[1:3]
        # A smaller map later on cuts the neighbourhood; from the start it is a mistake.
        if self.is_initializing() and self.dilation * (self.kernel // 2) >= max(h, w):
            raise UserError(
                f"{_KEY}.kernel={self.kernel} with dilation={self.dilation} reaches beyond a map of {h}x{w} positions "
                "from everywhere: choose less, or give larger images"
            )
        return local_ops.local_weights(q, k, kernel=self.kernel, dilation=self.dilation)

    def _map(self, weights: Array) -> AttentionMap:
        s, b, h, w, a = weights.shape
        keys = local_ops.local_keys((h, w), self.kernel, self.dilation)
        return AttentionMap(weights.transpose(1, 4, 2, 3, 0).reshape(b, a, h * w, s), keys, (h, w), (h, w))

    def _check(self) -> None:
        check_known(_KEY, VALUES, value=self.value)
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"{_KEY}.kernel={self.kernel} has no middle: choose an odd number, such as 7")
        check_least(_KEY, 1, dilation=self.dilation, iterations=self.iterations)
        check_least(_KEY, 0, head_dim=self.head_dim, channels=self.channels, stride=self.stride)
        if self.stride and self.value != "logits":
            raise UserError(f"{_KEY}.stride={self.stride} is for value='logits': choose 0, or that value")
