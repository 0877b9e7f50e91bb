"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030), after torchvision's `models/swin_transformer.py`."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.backbones.base import Backbone, variant
from attnseg_jax.models.features import Features
from attnseg_jax.models.layers.conv import Conv, Dense, Dtype, layer_norm
from attnseg_jax.models.layers.residual import drop_path_rates
from attnseg_jax.models.layers.swin import SwinBlock
from attnseg_jax.models.options import option

_PATCH = 4
_EPSILON = 1e-5


class PatchMerging(nn.Module):
    """Every 2x2 pixels become one of twice the channels: joined, normalised and projected; zeros complete odd sizes."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j o"]:
        """Returns the map of half the height and width."""
        _, h, w, c = x.shape
        x = jnp.pad(x, [(0, 0), (0, h % 2), (0, w % 2), (0, 0)])
        # Row by row within a column, as the published projections expect.
        x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
        x = layer_norm("norm", _EPSILON)(x).astype(self.dtype)
        return Dense(2 * c, use_bias=False, dtype=self.dtype, name="reduction")(x)


class Swin(Backbone):
    """Four stages of attention in windows, every second block's shifted by half; maps at the strides 4, 8, 16, 32.

    The maps are what the stages put out, of which torchvision normalises the last only; with `stage_norms` the others
    are normalised too, as Swin's authors and mmsegmentation hand them to decoders, but ImageNet weights do not fill
    these. Rows and columns of the image beyond a multiple of 4 are not seen in torchvision's form.

    A subclass names the channels of the first stage (`width`), the blocks of each stage (`depths`), their attention
    heads (`heads`) and the hidden width of their MLPs (`mlp_ratio`).

    Attributes:
      form: `torchvision`, or `transformers`, whose backbone completes the image by zeros to a multiple of 4 and shifts
        windows along an axis of a single one too.
      window: pixels on a side of a window, 7 in most published weights and 12 in those of images of 384.
      stage_norms: normalises the maps of the strides 4, 8 and 16.
      drop_path: rate at which the last block's branches are dropped in training, growing from 0 in the first (0.2 in
        `swin_t`, 0.3 in `swin_s`, 0.5 in `swin_b`).
    """

    width: ClassVar[int] = 96
    depths: ClassVar[tuple[int, ...]]
    heads: ClassVar[tuple[int, ...]] = (3, 6, 12, 24)
    mlp_ratio: ClassVar[float] = 4.0
    layouts = ("torchvision_swin", "transformers_swin")
    least_size = _PATCH

    form: str = option("torchvision", choices=("torchvision", "transformers"))
    window: int = option(7, at_least=2, at_most=64)
    stage_norms: bool = False
    drop_path: float = option(0.0, at_least=0, below=1)
    impl: str = "auto"

    @property
    def layer_paths(self) -> tuple[str, ...]:
        """As in `Backbone`: a layer is a block; what halves the map belongs to the block before it."""
        found = ["patch_(embed|norm)/.*"]
        for stage, depth in enumerate(self.depths, 1):
            found += [f"stage{stage}_{i}/.*" for i in range(depth)]
            found[-1] = f"({found[-1]}|merge{stage}/.*)"
        return tuple(found)

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised)."""
        self.check_size(image)
        image, padded_size = self._complete(image)
        rates = iter(drop_path_rates(self.drop_path, sum(self.depths)))
        x = Conv(self.width, _PATCH, _PATCH, padding=0, use_bias=True, dtype=self.dtype, name="patch_embed")(image)
        x = layer_norm("patch_norm", _EPSILON)(x).astype(self.dtype)
        maps = {}
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads), 1):
            if stage > 1:
                x = PatchMerging(self.dtype, name=f"merge{stage - 1}")(x)
            for i in range(depth):
                block = SwinBlock(
                    self.window,
                    self.window // 2 if i % 2 else 0,
                    heads,
                    self.mlp_ratio,
                    always_shift=bool(i % 2) and self.form == "transformers",
                    impl=self.impl,
                    dtype=self.dtype,
                    drop_path=next(rates),
                    name=f"stage{stage}_{i}",
                )
                x = block(x, train=train)
            stride = 2 * 2**stage
            maps[stride] = x
            if stride == 32 or self.stage_norms:
                norm = layer_norm("norm" if stride == 32 else f"map_norm{stride}", _EPSILON)
                maps[stride] = norm(x).astype(self.dtype)
        return Features(maps, padded_size=padded_size)

    def _complete(self, image: Array) -> tuple[Array, tuple[int, int] | None]:
        """The image as its patches cover it, and its size where there are zeros at the bottom and right."""
        if self.form == "torchvision":
            return image, None
        h, w = image.shape[1:3]
        down, right = -h % _PATCH, -w % _PATCH
        return jnp.pad(image, [(0, 0), (0, down), (0, right), (0, 0)]), (h + down, w + right)


SwinT = variant(Swin, "SwinT", depths=(2, 2, 6, 2))
SwinS = variant(Swin, "SwinS", depths=(2, 2, 18, 2))
SwinL = variant(Swin, "SwinL", width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48))
SwinB = variant(Swin, "SwinB", width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32))
