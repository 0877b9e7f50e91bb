"""The head of DDRNet and PIDNet (Pan et al. 2022; Xu et al. 2023), after mmsegmentation's `ddr_head.py`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.context_pyramid import NormConv
from attnseg_jax.models.layers.conv import BatchNorm, Dtype, classifier
from attnseg_jax.models.options import option


class DDRHead(nn.Module):
    """Normalisation, ReLU, 3x3 convolution, normalisation, ReLU, classifier.

    Attributes:
      num_classes: channels of the logits.
      channels: of the convolution.
    """

    num_classes: int
    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w k"]:
        """Returns logits at the size of `x`."""
        x = NormConv(self.channels, 3, dtype=self.dtype, name="conv")(x, train=train)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train=train))
        return classifier(self.num_classes, "classifier")(x)


class DDR(Decoder):
    """A 3x3 convolution between two normalisations, and a classifier, on the deepest map.

    Pan et al. 2022, arXiv:2101.06085; after mmsegmentation's `DDRHead` and `PIDHead`. It gates no skips.

    Attributes:
      channels: of the convolution: 64 in DDRNet-23-slim, 128 in PIDNet-S and M, 256 in PIDNet-L.
      auxiliary: a second head on the fine branch that `ddrnet23_slim` and `pidnet_*` hand on.
      boundary: a third head on the boundary branch of `pidnet_*`, which is trained by the borders between classes, by
        which then the logits are trained once more; see `config.loss.edge_weight`.
    """

    channels: int = option(128, at_least=1)
    auxiliary: bool = False
    boundary: bool = False

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the deepest map; as `ddr` those of the second head."""
        logits = DDRHead(self.num_classes, self.channels, self.dtype, name="head")(features.deepest, train=train)
        output = Output(logits, edges=self._edges(features, train))
        if not self.auxiliary:
            return output
        if "spatial" not in features.extras:
            hint = "needs a backbone with a fine branch, such as ddrnet23_slim: set auxiliary=False, or aux=True"
            raise OptionError("auxiliary", True, hint)
        head = DDRHead(self.num_classes, self.channels, self.dtype, name="auxiliary_head")
        return output.replace(aux={"ddr": head(features.extras["spatial"], train=train)})

    def _edges(self, features: Features, train: bool) -> Float[Array, "b h w 1"] | None:
        if not self.boundary:
            return None
        if "edges" not in features.extras:
            hint = "needs a backbone with a boundary branch, such as pidnet_s: set it to False"
            raise OptionError("boundary", True, hint)
        channels = max(features.deepest.shape[-1] // 4, 1)
        return DDRHead(1, channels, self.dtype, name="boundary_head")(features.extras["edges"], train=train)
