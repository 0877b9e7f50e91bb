"""Hamburger (Geng et al. 2021, arXiv:2109.04553), after mmsegmentation's `decode_heads/ham_head.py`."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.layers.blocks import ConvGroupNorm
from attnseg_jax.models.layers.conv import Conv, Dtype
from attnseg_jax.models.records import AttentionMap, sow_record
from attnseg_jax.ops.attention.nmf import nmf_attention


def check_groups(field: str, channels: int, groups: int) -> None:
    """Raises OptionError where channels do not divide into the groups of a normalisation."""
    if channels % groups:
        raise OptionError(field, groups, f"does not divide {channels} channels: choose a divisor")


class Hamburger(nn.Module):
    """`relu(x + norm(out(nmf(relu(in(x))))))`: a map rebuilt from a few bases fitted to it, between 1x1 convolutions.

    The bases start at random, in training anew for every image at every step. In evaluation they always start at the
    same numbers, so that a picture has one answer; the original draws there too.

    Attributes:
      bases: number of bases.
      train_steps: of the factorisation, in training.
      eval_steps: in evaluation.
      groups: of the normalisation, a divisor of the channels.
      one_step_gradient: as in `nmf_attention`.
    """

    bases: int = 64
    train_steps: int = 6
    eval_steps: int = 7
    groups: int = 32
    one_step_gradient: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Returns the map; the record `hamburger` has every base's share in the pixels."""
        b, h, w, c = x.shape
        y = nn.relu(Conv(c, 1, use_bias=True, dtype=self.dtype, name="in")(x)).reshape(b, h * w, c)
        steps = self.train_steps if train else self.eval_steps
        start = self.start(b, c, train=train)
        y, coefficients = nmf_attention(y, start, steps=steps, one_step_gradient=self.one_step_gradient)

        def record() -> AttentionMap:
            total = jnp.maximum(coefficients.sum(axis=-1, keepdims=True), 1e-12)
            return AttentionMap((coefficients / total)[:, None], query_size=(h, w))

        sow_record(self, "hamburger", record)
        y = y.astype(self.dtype).reshape(x.shape)
        out = ConvGroupNorm(c, self.groups, self.dtype, kernel_size=1, relu=False, name="out")
        return nn.relu(x + out(y))

    def start(self, images: int, channels: int, *, train: bool) -> Float[Array, "_b c r"]:
        """The bases that the factorisation starts from, uniform between 0 and 1."""
        shape = (channels, self.bases)
        if train:
            return jax.random.uniform(self.make_rng("dropout"), (images, *shape))
        return jnp.asarray(np.random.default_rng(0).random((1, *shape), np.float32))
