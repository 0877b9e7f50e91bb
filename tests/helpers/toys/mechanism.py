"""A mechanism from outside the package, as a user would write one."""

from flax import linen as nn

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention import Attention
from attnseg_jax.models.options import option
from attnseg_jax.models.records import GateMap, sow_record


class Mine(Attention):
    """Every position times a gate that sees the mean of the `kernel x kernel` around it.

    Attributes:
      kernel: pixels on a side, odd.
      form: of the gate, `sigmoid` or `open`.
    """

    kernel: int = option(3, at_least=1, odd=True)
    form: str = option("sigmoid", choices=("sigmoid", "open"))

    @nn.compact
    def attend(self, x, *, train=False):
        if self.kernel > min(x.shape[1:3]):
            raise OptionError("kernel", self.kernel, f"does not fit a map of {x.shape[1]}x{x.shape[2]}: choose less")
        mean = nn.avg_pool(x, (self.kernel, self.kernel), padding="SAME")
        gate = nn.sigmoid(nn.Dense(1, name="gate")(mean)) if self.form == "sigmoid" else mean[..., :1] * 0 + 1
        sow_record(self, "mine", GateMap(gate))
        return x * gate.astype(x.dtype)
