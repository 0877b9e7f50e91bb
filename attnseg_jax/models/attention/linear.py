"""Linear attention: every position attends to all, in time and memory linear in their number."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from attnseg_jax.errors import check_known, check_least
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.attention import head_width
from attnseg_jax.models.layers.conv import Dtype, layer_norm
from attnseg_jax.models.records import DotProductMap
from attnseg_jax.ops.attention import linear as linear_ops


class LinearAttention(Attention):
    """Every position of the deepest map attends to all: `x + out(factor(q) (factor(k)^T v))`, O(n d^2).

    Katharopoulos et al. 2020, arXiv:2006.16236 (github.com/idiap/fast-transformers) for `elu`; Shen et al. 2021,
    arXiv:1812.01243 (github.com/cmsflash/efficient-attention) for `softmax`.

    Attributes:
      form: `elu` (the kernel `elu + 1`) or `softmax` (of queries over channels, of keys over positions).
      heads: number of heads.
      head_dim: width of a head; 0 divides the channels by the heads.
      channels: the map is first projected to this many channels; 0 keeps the backbone's.
      norm: layer normalisation before attention.
      dtype: compute type; attention and normalisation are float32.
    """

    form: str = "elu"
    heads: int = 2
    head_dim: int = 0
    channels: int = 0
    norm: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, train: bool = False) -> Features:
        """Returns the features with the deepest map attended over; the implied weights go to `attention['linear0']`.

        Raises:
          UserError: an unknown form, an option out of its range, or heads that do not divide the channels.
        """
        check_known("config.model.attention.linear", linear_ops.FORMS, form=self.form)
        check_least("config.model.attention.linear", 0, head_dim=self.head_dim, channels=self.channels)
        x = features.deepest
        if self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, name="project")(x)
        b, h, w, c = x.shape
        d = head_width(c, self.heads, self.head_dim, key="config.model.attention.linear.heads")
        y = layer_norm("norm")(x).astype(self.dtype) if self.norm else x

        def project(name: str) -> Array:
            return nn.Dense(self.heads * d, dtype=self.dtype, name=name)(y).reshape(b, h * w, self.heads, d)

        q, k, v = project("query"), project("key"), project("value")
        factors = linear_ops.linear_factors(q, k, form=self.form)
        record = DotProductMap(*factors, scale=1.0, softmax=False, query_size=(h, w), key_size=(h, w))
        features = features.with_attention("linear", record)
        y = linear_ops.linear_attention(q, k, v, form=self.form).reshape(b, h, w, self.heads * d)
        return features.with_deepest(x + nn.Dense(c, dtype=self.dtype, name="out")(y))
