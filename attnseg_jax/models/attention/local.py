"""Attention to the pixels around each pixel, of features or of class scores."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.base import ResidualAttention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.attention import head_width
from attnseg_jax.models.layers.conv import Dense, layer_norm
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, sow_record
from attnseg_jax.ops.attention import local as local_ops
from attnseg_jax.ops.resize import resize


class LocalAttention(ResidualAttention):
    """Every pixel attends to the `kernel x kernel` around it: `softmax over them of q . k / sqrt(d)`; O(n kernel^2).

    With `value='features'` the deepest map `x` becomes `x + out(attend(norm(x)))`. With `value='logits'` the map
    stays; the decoder's scores of a pixel become the weighted mean of those around it, several times, the weights being
    the mean over the heads of the same softmax. Queries and keys are taken from the map of `stride` and bilinearly
    resampled to the logits' size. A fine map tells the pixels on the two sides of a contour apart; on the deepest all
    pixels of a neighbourhood resemble each other, and averaging blurs.

    Follows stand-alone self-attention (arXiv:1906.05909), NAT (arXiv:2204.07143, SHI-Labs/NATTEN; here the
    neighbourhood of a border pixel is cut, not shifted inwards) and, for the logits, PAMR (arXiv:2005.08104,
    visinf/1-stage-wseg), with learned similarity.

    Attributes as in `ResidualAttention`, for features only, and:
      kernel: pixels on a side of the neighbourhood, odd.
      dilation: distance of neighbours in pixels.
      heads: number of heads.
      head_dim: width of a head; 0 divides the channels by the heads.
      value: what is averaged, `features` or `logits`.
      iterations: how often the logits are averaged.
      stride: nominal stride of the map whose pixels are compared; 0 the deepest. For logits only.
    """

    kernel: int = option(7, at_least=1, at_most=63, odd=True)
    dilation: int = option(1, at_least=1, at_most=1024)
    heads: int = option(4, at_least=1)
    head_dim: int = option(0, at_least=0)
    value: str = option("features", choices=("features", "logits"))
    iterations: int = option(3, at_least=1, at_most=100)
    stride: int = option(0, at_least=0)

    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features, with the deepest map attended over where `value` is `features`."""
        if self.value == "logits":
            return features
        if self.stride:
            raise OptionError("stride", self.stride, "is for value='logits': choose 0, or that value")
        return super().__call__(features, train=train)

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns what every pixel gathers; its weights are recorded as `local`."""
        q, k, v = (self._embed(x, name) for name in ("query", "key", "value"))
        weights = self._weights(q, k)
        y = local_ops.local_average(weights, v, dilation=self.dilation)
        self._record(weights)
        return Dense(x.shape[-1], dtype=self.dtype, name="out")(y.reshape(*y.shape[:3], -1))

    @nn.compact
    def refine(self, logits: Float[Array, "b h w k"], features: Features) -> Float[Array, "b h w k"]:
        """Returns the averaged logits, with weights recorded as `local`; or the logits where `value` is `features`."""
        if self.value != "logits":
            return logits
        stride = self.stride or max(features.maps)
        x = features.at(stride, "stride", self.stride, "choose one of them, or 0 for the deepest")
        y = layer_norm("refine_norm")(x).astype(self.dtype)
        q, k = (self._embed(y, f"refine_{name}", logits.shape[1:3]) for name in ("query", "key"))
        weights = self._weights(q, k).mean(-1, keepdims=True)
        scores = logits.astype(jnp.float32)[:, :, :, None]
        for _ in range(self.iterations):
            scores = local_ops.local_average(weights, scores, dilation=self.dilation)
        self._record(weights)
        return scores[:, :, :, 0]

    def _embed(self, x: Array, name: str, size: tuple[int, int] | None = None) -> Array:
        d = head_width(x.shape[-1], self.heads, self.head_dim)
        y = Dense(self.heads * d, dtype=self.dtype, name=name)(x)
        y = y if size is None else resize(y, size)
        return y.reshape(*y.shape[:3], self.heads, d)

    def _weights(self, q: Array, k: Array) -> Array:
        h, w = q.shape[1:3]
        # A smaller map later on cuts the neighbourhood; from the start it is a mistake.
        if self.is_initializing() and self.dilation * (self.kernel // 2) >= max(h, w):
            hint = (
                f"with dilation={self.dilation} reaches beyond a map of {h}x{w} positions from everywhere: choose "
                "less, or give larger images"
            )
            raise OptionError("kernel", self.kernel, hint)
        return local_ops.local_weights(q, k, kernel=self.kernel, dilation=self.dilation)

    def _record(self, weights: Array) -> None:
        s, b, h, w, a = weights.shape

        def record() -> AttentionMap:
            keys = local_ops.local_keys((h, w), self.kernel, self.dilation)
            return AttentionMap(weights.transpose(1, 4, 2, 3, 0).reshape(b, a, h * w, s), keys, (h, w), (h, w))

        sow_record(self, "local", record)
