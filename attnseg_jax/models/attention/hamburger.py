"""Hamburger as a mechanism (Geng et al. 2021, arXiv:2109.04553): a map rebuilt from bases fitted to each image."""

import math

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.attention.base import Attention, lead_width
from attnseg_jax.models.layers import hamburger as layer
from attnseg_jax.models.layers.conv import ConvBN
from attnseg_jax.models.options import option


class Hamburger(Attention):
    """Every pixel rebuilt from a few bases by non-negative factorisation, O(steps n c r), after a 1x1 convolution.

    Attributes:
      channels: of the 1x1 convolution and all that follows; 0 keeps the map's, but takes at most 512.
      bases: their number r.
      train_steps: of the factorisation, in training.
      eval_steps: in evaluation.
      groups: of the normalisation at its end, a divisor of the channels; 0 takes 32, or their greatest common divisor.
      one_step_gradient: no gradient passes but that of the last step, as in the paper; by all of them in SegNeXt.
    """

    channels: int = option(0, at_least=0)
    bases: int = option(64, at_least=1, at_most=4096)
    train_steps: int = option(6, at_least=1, at_most=100)
    eval_steps: int = option(7, at_least=1, at_most=100)
    groups: int = option(0, at_least=0)
    one_step_gradient: bool = False

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w _c"]:
        """Returns the rebuilt map; the record `hamburger` has every base's share in the pixels."""
        channels = lead_width(self.channels, x)
        groups = self.groups or math.gcd(32, channels)
        layer.check_groups("groups", channels, groups)
        x = ConvBN(channels, 1, dtype=self.dtype, name="lead")(x, train=train)
        ham = layer.Hamburger(
            self.bases,
            self.train_steps,
            self.eval_steps,
            groups,
            self.one_step_gradient,
            self.dtype,
            name="hamburger",
        )
        return ham(x, train=train)
