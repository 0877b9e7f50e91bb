"""Non-local block (Wang et al. 2018, arXiv:1711.07971), after github.com/AlexHex7/Non-local_pytorch."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, check_known, check_least
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import BatchNorm, Conv, Dtype, torch_default_init
from attnseg_jax.models.records import DotProductMap
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention.non_local import dot_product_average
from attnseg_jax.ops.pool import max_pool

FORMS = ("embedded_gaussian", "gaussian", "dot_product")

_KEY = "config.model.attention.nonlocal"


class NonLocalBlock(nn.Module):
    """`x + out(mean of the values, weighted by f(query, key))` for all pairs of positions.

    Attributes as in `NonLocal`.
    """

    form: str = "embedded_gaussian"
    channels: int = 0
    sub_sample: bool = True
    norm: bool = True
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], DotProductMap]:
        """Returns the result and who attends to what.

        Raises:
          UserError: an unknown form, negative channels, or a map too small to be sub-sampled.
        """
        b, h, w, c = x.shape
        check_known(_KEY, FORMS, form=self.form)
        check_least(_KEY, 0, channels=self.channels)
        if self.sub_sample and min(h, w) < 2:
            raise UserError(
                f"{_KEY}.sub_sample=True needs a map of at least 2x2 positions, not {h}x{w}: "
                "set it to False, or give larger images"
            )
        channels = self.channels or max(c // 2, 1)

        def project(name):
            conv = Conv(channels, 1, use_bias=True, dtype=self.dtype, kernel_init=torch_default_init, name=name)
            return conv(x)

        embedded = self.form != "gaussian"
        query = project("query") if embedded else x.astype(self.dtype)
        key = project("key") if embedded else query
        value = project("value")
        if self.sub_sample:
            key, value = max_pool(key, 2), max_pool(value, 2)
        q, k, v = (t.reshape(b, -1, 1, t.shape[-1]) for t in (query, key, value))
        record = DotProductMap(q, k, scale=1.0, query_size=(h, w), key_size=key.shape[1:3])
        if self.form == "dot_product":
            record = record.replace(scale=1.0 / k.shape[1], softmax=False)
            y = dot_product_average(q, k, v)
        else:
            y = attention_ops.dot_product_attention(q, k, v, scale=1.0, impl=self.impl)
        out_init = torch_default_init if self.norm else nn.initializers.zeros
        y = Conv(c, 1, use_bias=True, dtype=self.dtype, kernel_init=out_init, name="out")(y.reshape(b, h, w, channels))
        if self.norm:
            y = BatchNorm(dtype=self.dtype, scale_init=nn.initializers.zeros, name="norm")(y, train=train)
        return x + y, record


class NonLocal(Attention):
    """Non-local means over the deepest map: `x + out(sum_m f(query, key_m) value_m / C)`, at first the identity.

    The softmax forms take O(n m d) time, the dot-product form O((n + m) d^2). Wang et al. 2018 (arXiv:1711.07971);
    github.com/AlexHex7/Non-local_pytorch.

    Attributes:
      form: `embedded_gaussian` (softmax of the unscaled `query . key`), `gaussian` (likewise, of the map itself instead
        of projections) or `dot_product` (`query . key` divided by the number of keys).
      channels: of the projections; 0 takes half of the map's.
      sub_sample: keys and values are max-pooled 2x2; odd rows and columns at the end are left out.
      norm: batch normalisation after the last projection.
      impl: how the softmax forms are computed, see `attnseg_jax.ops.attention.dot_product_attention`.
      dtype: compute type; softmax and normalisation are float32.
    """

    form: str = "embedded_gaussian"
    channels: int = 0
    sub_sample: bool = True
    norm: bool = True
    impl: str = "auto"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over; the map goes to `attention['nonlocal0']`."""
        block = NonLocalBlock(self.form, self.channels, self.sub_sample, self.norm, self.impl, self.dtype, name="block")
        x, record = block(features.deepest, train=train)
        return features.with_deepest(x).with_attention("nonlocal", record)
