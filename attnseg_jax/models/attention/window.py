"""Shifted-window attention with relative position bias (Swin, Liu et al. 2021, arXiv:2103.14030)."""

from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.attention import head_width
from attnseg_jax.models.layers.conv import Dense
from attnseg_jax.models.layers.swin import SwinBlock
from attnseg_jax.models.options import option


class WindowAttention(Attention):
    """Every pixel attends to its `window x window` tile, in every second layer to one moved by half; O(n window^2).

    `softmax(q . k / sqrt(d) + bias[offset])` in pre-norm blocks with an MLP, as in microsoft/Swin-Transformer.

    Attributes:
      window: pixels on a side of a window; the map it is initialised on has at least as many.
      heads: number of heads.
      channels: the map is first projected to this many channels; 0 keeps the backbone's.
      layers: how many blocks follow one another; the second, fourth, ... are shifted by half a window.
      mlp_ratio: hidden width of a block's MLP, in channels.
    """

    window: int = option(7, at_least=1, at_most=1024)
    heads: int = option(4, at_least=1)
    channels: int = option(0, at_least=0)
    layers: int = option(2, at_least=1, at_most=100)
    mlp_ratio: float = option(4.0, at_least=0, at_most=1000)
    impl: str = "auto"

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w _c"]:
        """Returns the map after all blocks; the weights of each are recorded as `window`."""
        if self.channels:
            x = Dense(self.channels, dtype=self.dtype, name="project")(x)
        _, h, w, c = x.shape
        head_width(c, self.heads)
        # A smaller map later on is padded; from the start it is a mistake.
        if self.is_initializing() and self.window > min(h, w):
            hint = (
                f"does not fit the map of {h}x{w}: choose 1 to {min(h, w)}, a larger crop or a backbone of smaller "
                "stride"
            )
            raise OptionError("window", self.window, hint)
        for i in range(self.layers):
            shift = self.window // 2 if i % 2 else 0
            block = SwinBlock(
                self.window,
                shift,
                self.heads,
                self.mlp_ratio,
                impl=self.impl,
                dtype=self.dtype,
                record="window",
                name=f"block{i}",
            )
            x = block(x, train=train)
        return x
