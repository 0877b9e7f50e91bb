"""SegNeXt's decoder, the light Hamburger head (Guo et al. 2022), after mmsegmentation's `decode_heads/ham_head.py`."""

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.models.decoders.base import Decoder, Gate, check_named, maps_of
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.blocks import ConvGroupNorm
from attnseg_jax.models.layers.conv import classifier
from attnseg_jax.models.layers.hamburger import Hamburger, check_groups
from attnseg_jax.models.layers.residual import drop_channels
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class Ham(Decoder):
    """Maps, resized to the finest and narrowed together, rebuilt from a few bases (Hamburger), and classified.

    Guo et al. 2022, arXiv:2209.08575; after mmsegmentation's `LightHamHead`. It gates no skips.

    Attributes:
      channels: of all layers: 256 with `mscan_t` and `mscan_s`, 512 with `mscan_b`, 1024 with `mscan_l`.
      bases: of the factorisation: 16 with `mscan_t` and `mscan_s`, 64 with the larger ones.
      train_steps: of the factorisation, in training.
      eval_steps: in evaluation.
      groups: of the normalisations, a divisor of the channels.
      dropout: rate at which channels are dropped before the classifier, in training.
      strides: nominal strides of the maps to use.
    """

    channels: int = option(256, at_least=1)
    bases: int = option(16, at_least=1, at_most=4096)
    train_steps: int = option(6, at_least=1, at_most=100)
    eval_steps: int = option(7, at_least=1, at_most=100)
    groups: int = option(32, at_least=1)
    dropout: float = option(0.1, at_least=0, below=1)
    strides: tuple[int, ...] = (8, 16, 32)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map used; records of `Hamburger`."""
        check_groups("groups", self.channels, self.groups)
        check_named(self.strides)
        maps = list(maps_of(features, self.strides, "strides").values())

        def conv(name: str) -> ConvGroupNorm:
            return ConvGroupNorm(self.channels, self.groups, self.dtype, kernel_size=1, name=name)

        x = jnp.concatenate([resize(x, maps[0].shape[1:3]) for x in maps], axis=-1)
        x = conv("squeeze")(x)
        ham = Hamburger(self.bases, self.train_steps, self.eval_steps, self.groups, dtype=self.dtype, name="hamburger")
        x = conv("align")(ham(x, train=train))
        return Output(classifier(self.num_classes, "classifier")(drop_channels(x, self.dropout, train=train)))
