"""Point-wise spatial attention: every position predicts what it takes from, and what it gives to, every other."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.layers.conv import ConvBN
from attnseg_jax.models.options import option
from attnseg_jax.models.records import AttentionMap, AttentionRecord, DotProductMap, sow_record
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention.psa import scores_of_positions
from attnseg_jax.ops.resize import resize

KINDS = {"collect": ("collect",), "distribute": ("distribute",), "both": ("collect", "distribute")}
# The scale of PyTorch's default for convolutions: scores are small at first, attention is nearly uniform.
_planes_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=2, out_axis=(0, 1))


class PSA(Attention):
    """`[x, proj([softmax(P x) x, softmax(x^T P^T) x])]`: scores by learned planes P, on a shrunken map; O(N^2 c).

    PSANet, Zhao et al., ECCV 2018; after github.com/hszhao/semseg. The over-complete form builds arrays of N x N
    scores, with N the positions of the shrunken map; it scores `mask_size` offsets, all others 0. The compact form is
    dot-product attention with learned keys (collect) or queries (distribute), one for each position, resampled
    bilinearly with aligned corners to a map of another size.

    Attributes:
      kind: `collect` (a position predicts what it takes), `distribute` (what it gives) or `both`.
      compact: planes are positions of the map instead of offsets.
      channels: of the attended map; 0 takes a quarter of the input's.
      shrink: attention works at `(size - 1) // shrink + 1` pixels.
      mask_size: height and width of the planes, odd unless compact; () is the map's at initialisation (compact) or
        twice that less 1, all offsets; parameters keep it when they are applied to another size.
      softmax: of the scores over all sources; otherwise they are the weights as they are.
      factor: what is gathered is divided by it; 0 takes the number of planes, for scores without a softmax.
      impl: how the compact form is computed, see `attnseg_jax.ops.attention.dot_product_attention`.
    """

    kind: str = option("both", choices=tuple(KINDS))
    compact: bool = False
    channels: int = option(0, at_least=0)
    shrink: int = option(2, at_least=1)
    mask_size: tuple[int, ...] = option((), at_least=1, at_most=1024, lengths=(0, 2))
    softmax: bool = True
    factor: float = option(1.0, at_least=0)
    impl: str = "auto"

    @nn.compact
    def attend(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w d"]:
        """Returns a map of twice the channels, the given ones first; records are `psa_collect` and `psa_distribute`."""
        h, w, c = x.shape[1:]
        # A smaller map later on only shrinks to less; from the start it is a mistake.
        if self.is_initializing() and self.shrink > min(h, w):
            hint = f"does not fit a map of {h}x{w} positions: choose 1 to {min(h, w)}, or give larger images"
            raise OptionError("shrink", self.shrink, hint)
        if not self.compact and any(n % 2 == 0 for n in self.mask_size):
            raise OptionError("mask_size", self.mask_size, "must be two odd numbers, or (), unless compact")
        attended = []
        for i, branch in enumerate(KINDS[self.kind]):
            y, record = self.clone(parent=self, name=f"branch{i}").branch(x, branch == "distribute", train=train)
            attended.append(y)
            sow_record(self, f"psa_{branch}", record)
        y = ConvBN(c, 1, dtype=self.dtype, name="proj")(jnp.concatenate(attended, axis=-1), train=train)
        return jnp.concatenate([x, resize(y, (h, w), align_corners=True)], axis=-1)

    @nn.compact
    def branch(
        self, x: Float[Array, "b h w c"], distribute: bool, *, train: bool
    ) -> tuple[Float[Array, "b i j d"], AttentionRecord]:
        """Attention with scores that one side predicts by `planes`, a kernel `[mask_h, mask_w, c]`.

        With `distribute` the sources predict where they give, else the targets whence they take. Returns the attended,
        shrunken map and its weights; rows are targets, keys their sources.
        """
        channels = self.channels or max(1, x.shape[-1] // 4)
        x = ConvBN(channels, 1, dtype=self.dtype, name="reduce")(x, train=train)
        size = tuple((n - 1) // self.shrink + 1 for n in x.shape[1:3])
        x = resize(x, size, align_corners=True)
        y = ConvBN(channels, 1, dtype=self.dtype, name="attention")(x, train=train)
        planes = self.param("planes", _planes_init, (*self._mask_size(size), channels), jnp.float32)
        mixed, record = (self._compact if self.compact else self._over_complete)(x, y, planes, distribute)
        mixed = mixed / (self.factor or planes.shape[0] * planes.shape[1])
        return mixed.reshape(x.shape), record.replace(query_size=size, key_size=size)

    def _mask_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        if self.mask_size:
            return self.mask_size
        # What was initialised on a crop keeps the crop's mask on a whole image.
        if self.has_variable("params", "planes"):
            return self.get_variable("params", "planes").shape[:2]
        return size if self.compact else tuple(2 * n - 1 for n in size)

    def _compact(self, x: Array, y: Array, planes: Array, distribute: bool) -> tuple[Array, AttentionRecord]:
        b, h, w, c = x.shape
        # Resampling the kernel is resampling the planes that it predicts.
        planes = resize(planes[None], (h, w), align_corners=True).astype(self.dtype)
        planes = jnp.broadcast_to(planes, x.shape).reshape(b, h * w, 1, c)
        y = y.reshape(b, h * w, 1, c)
        q, k = (planes, y) if distribute else (y, planes)
        v = x.reshape(b, h * w, 1, c)
        record = DotProductMap(q, k, scale=1.0, softmax=self.softmax)
        if not self.softmax:
            return attention_ops.dot_product_average(q, k, v) * (h * w), record
        return attention_ops.dot_product_attention(q, k, v, scale=1.0, impl=self.impl), record

    def _over_complete(self, x: Array, y: Array, planes: Array, distribute: bool) -> tuple[Array, AttentionRecord]:
        b, h, w, c = x.shape
        scores = jnp.einsum("bhwc,ijc->bhwij", y, planes.astype(self.dtype), preferred_element_type=jnp.float32)
        scores = scores_of_positions(scores)
        if distribute:
            scores = jnp.swapaxes(scores, 1, 2)
        weights = nn.softmax(scores) if self.softmax else scores
        v = x.reshape(b, h * w, c)
        mixed = jnp.einsum("bnm,bmc->bnc", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return mixed.astype(v.dtype), AttentionMap(weights[:, None])
