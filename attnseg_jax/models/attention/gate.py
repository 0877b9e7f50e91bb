"""Attention gates: a decoder's skip, weighted at each position by what the coarser signal says about it."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.conv import BatchNorm, Conv, Dtype
from attnseg_jax.models.options import option
from attnseg_jax.models.records import GateMap, sow_record
from attnseg_jax.ops.resize import resize
from attnseg_jax.ops.symbolic import any_below

FORMS = ("oktay", "leejunhyun")


class Gate(Attention):
    """Every skip of the decoder, times `sigmoid(psi(relu(Wx skip + Wg signal)))` at each position: O(N c^2).

    Attention U-Net, Oktay et al. 2018, arXiv:1804.03999; after github.com/ozan-oktay/Attention-Gated-Networks
    (`oktay`, which compares at half the skip's size) or github.com/LeeJunHyun/Image_Segmentation (`leejunhyun`, at the
    skip's size). The features stay as they are, so the decoder must have skips.

    Attributes:
      form: `oktay` or `leejunhyun`.
      channels: of the sum; 0 takes half of the skip's.
    """

    form: str = option("oktay", choices=FORMS)
    channels: int = option(0, at_least=0)
    has_gate = True

    @nn.compact
    def gate(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, stride: int, train: bool = False
    ) -> Float[Array, "b h w c"]:
        """Returns the gated skip; the gate `[b, h, w, 1]` is recorded as `gate4_` at stride 4."""
        height, width = skip.shape[1:3]
        if self.form == "oktay" and any_below(2, height, width):
            hint = (
                f"halves the skip of stride {stride}, which is {height} x {width} pixels only: use larger images, a "
                "finer skip or the form 'leejunhyun'"
            )
            raise OptionError("form", self.form, hint)
        block = self.clone(parent=self, name=f"gate{stride}")
        y, gate = getattr(block, self.form)(skip, signal, train=train)
        sow_record(self, f"gate{stride}_", GateMap(gate))
        return y

    @nn.compact
    def oktay(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w a"]]:
        """`norm(conv(x * up(sigmoid(psi(relu(theta(x) + up(phi(g))))))))` with `theta` a 2x2 convolution of stride 2.

        `theta` has no padding, so of an odd size the last row or column is not read (it is gated all the same). Returns
        the gated skip, of at least 2 x 2 pixels, and the gate `[b, h, w, 1]`, float32.
        """
        c = skip.shape[-1]
        channels = self.channels or max(1, c // 2)
        theta = Conv(channels, 2, stride=2, padding=0, dtype=self.dtype, name="theta")(skip)
        phi = Conv(channels, 1, use_bias=True, dtype=self.dtype, name="phi")(signal)
        y = nn.relu(theta + resize(phi, theta.shape[1:3]))
        y = Conv(1, 1, use_bias=True, dtype=self.dtype, name="psi")(y)
        gate = resize(nn.sigmoid(y.astype(jnp.float32)), skip.shape[1:3])
        y = Conv(c, 1, use_bias=True, dtype=self.dtype, name="out_conv")(skip * gate.astype(skip.dtype))
        return BatchNorm(dtype=self.dtype, name="out_bn")(y, train=train), gate

    @nn.compact
    def leejunhyun(
        self, skip: Float[Array, "b h w c"], signal: Float[Array, "b y x d"], *, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w a"]]:
        """`x * sigmoid(norm(psi(relu(norm(Wx x) + norm(Wg g)))))`, and the gate `[b, h, w, 1]`, float32.

        The signal is first resized bilinearly to the skip's size, at which the original's U-Net hands it over.
        """

        def project(x: Array, features: int, name: str, dtype: Dtype) -> Array:
            x = Conv(features, 1, use_bias=True, dtype=self.dtype, name=f"{name}_conv")(x)
            return BatchNorm(dtype=dtype, name=f"{name}_bn")(x, train=train)

        channels = self.channels or max(1, skip.shape[-1] // 2)
        signal = project(resize(signal, skip.shape[1:3]), channels, "signal", self.dtype)
        y = nn.relu(signal + project(skip, channels, "skip", self.dtype))
        gate = nn.sigmoid(project(y, 1, "psi", jnp.float32))
        return skip * gate.astype(skip.dtype), gate
