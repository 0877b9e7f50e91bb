"""Non-local block (Wang et al. 2018, arXiv:1711.07971), after github.com/AlexHex7/Non-local_pytorch."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.conv import BatchNorm, Conv, Dense, torch_default_init
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, DotProductMap, sow_record
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention.non_local import dot_product_average
from attnseg_jax.ops.pool import max_pool
from attnseg_jax.ops.symbolic import any_below

FORMS = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


class NonLocal(Attention):
    """Non-local means over the deepest map: `x + out(sum_m f(query, key_m) value_m / C)`, at first the identity.

    The softmax forms and the concatenation take O(n m d) time, the dot-product form O((n + m) d^2).

    Attributes:
      form: `embedded_gaussian` (softmax of the unscaled `query . key`), `gaussian` (likewise, of the map itself instead
        of projections), `dot_product` (`query . key` divided by the number of keys) or `concatenation` (the ReLU of a
        linear function of query and key, likewise divided; it keeps all n m numbers).
      channels: of the projections; 0 takes half of the map's.
      sub_sample: keys and values are max-pooled 2x2; odd rows and columns at the end are left out.
      norm: batch normalisation after the last projection.
      impl: how the softmax forms are computed, see `attnseg_jax.ops.attention.dot_product_attention`.
    """

    form: str = option("embedded_gaussian", choices=FORMS)
    channels: int = option(0, at_least=0)
    sub_sample: bool = True
    norm: bool = True
    impl: str = "auto"

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the map with what every position gathers; its weights are recorded as `nonlocal`."""
        b, h, w, c = x.shape
        if self.sub_sample and any_below(2, h, w):
            hint = f"needs a map of at least 2x2 positions, not {h}x{w}: set it to False, or give larger images"
            raise OptionError("sub_sample", True, hint)
        channels = self.channels or max(c // 2, 1)

        def project(name: str) -> Array:
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
        if self.form == "concatenation":
            y, record = self._concatenation(q[:, :, 0], k[:, :, 0], v[:, :, 0])
            record = record.replace(query_size=(h, w), key_size=key.shape[1:3])
        elif self.form == "dot_product":
            record = record.replace(scale=1.0 / k.shape[1], softmax=False)
            y = dot_product_average(q, k, v)
        else:
            y = attention_ops.dot_product_attention(q, k, v, scale=1.0, impl=self.impl)
        sow_record(self, "nonlocal", record)
        out_init = torch_default_init if self.norm else nn.initializers.zeros
        y = Conv(c, 1, use_bias=True, dtype=self.dtype, kernel_init=out_init, name="out")(y.reshape(b, h, w, channels))
        if self.norm:
            y = BatchNorm(dtype=self.dtype, scale_init=nn.initializers.zeros, name="norm")(y, train=train)
        return x + y

    def _concatenation(
        self, q: Float[Array, "b n d"], k: Float[Array, "b m d"], v: Float[Array, "b m d"]
    ) -> tuple[Float[Array, "b n d"], AttentionMap]:
        """Mean over the keys of `relu(w . [query, key]) value`; the record has every key's share."""

        def score(x: Array, name: str) -> Array:
            # One row of numbers for both sides together, as in the original; float32, as scores are.
            dense = Dense(1, use_bias=False, dtype=jnp.float32, kernel_init=torch_default_init, name=name)
            return dense(x)[..., 0]

        weights = nn.relu(score(q, "score_query")[:, :, None] + score(k, "score_key")[:, None])
        y = jnp.einsum("bnm,bmd->bnd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32) / k.shape[1]
        total = jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-12)
        return y.astype(v.dtype), AttentionMap((weights / total)[:, None])
