"""What all backbones have alike."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.errors import OptionError
from attnseg_jax.models.features import Features
from attnseg_jax.models.geometry import stride_multiple
from attnseg_jax.models.layers.conv import Dtype
from attnseg_jax.models.options import option
from attnseg_jax.ops.symbolic import any_below

# Of an option that dilates the later stages.
OUTPUT_STRIDES = (8, 16, 32)


class Backbone(nn.Module):
    """Base of all backbones: image -> `Features`.

    Fields are keys of `config.model.backbone.NAME`; `option` declares their ranges.

    Attributes:
      dtype: compute type; parameters and normalisation are float32. Filled by `build_model`.
      layouts: the layouts of published weights that fill it, keys of `attnseg_jax.weights.layouts.ENCODERS`.
      least_size: least height and width in pixels of an image of which every stage sees something.
      layer_paths: for `config.optimizer.layer_decay`, one regex for each depth, from the image on: which paths of
        parameters within the backbone are there. What none matches, such as a last normalisation, counts to the head.
        () for none.
      takes_visitors: whether a decoder may visit its blocks: it then takes `visit`, see `PlainViT`.
    """

    dtype: Dtype = jnp.float32
    layouts: ClassVar[tuple[str, ...]] = ()
    least_size: ClassVar[int] = 1
    layer_paths: ClassVar[tuple[str, ...]] = ()
    takes_visitors: ClassVar[bool] = False

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Features:
        """Returns the feature maps of `image` (float, normalised).

        Raises:
          OptionError: an image that is too small, an option that does not fit the others.
        """
        raise NotImplementedError

    @property
    def size_multiple(self) -> int:
        """Height and width of an image that the maps divide into whole cells are multiples of this."""
        return stride_multiple(self)

    def check_size(self, image: Float[Array, "b h w c"], least: int = 0) -> None:
        """Refuses images of which the backbone would have nothing left at some stage.

        Raises:
          OptionError: the image has fewer than `least`, or `least_size`, pixels in height or width.
        """
        least, (h, w) = least or self.least_size, image.shape[1:3]
        if any_below(least, h, w):
            hint = f"needs images of at least {least}x{least} pixels, not {h}x{w}: give larger images or choose another"
            raise OptionError("", type(self).__name__, f"{hint} backbone")


def variant(family: type[Backbone], name: str, **constants: Any) -> type[Backbone]:
    """The member of a family of backbones with these values of its class variables."""
    return type(
        name, (family,), {"__module__": family.__module__, "__doc__": f"`{family.__name__}`: {name}.", **constants}
    )


def output_stride_option() -> Any:
    """The option `output_stride` of a backbone whose later stages may keep their resolution and dilate."""
    return option(32, choices=OUTPUT_STRIDES)
