"""LinkNet (Chaurasia & Culurciello 2017), after segmentation_models_pytorch's `decoders/linknet`."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.blocks import ConvTranspose
from attnseg_jax.models.layers.conv import BatchNorm, ConvBN, Dtype, classifier
from attnseg_jax.models.options import option
from attnseg_jax.ops.resize import resize


class LinkBlock(nn.Module):
    """A quarter of the channels, doubled in height and width by a transposed 4x4 convolution, and widened.

    Attributes:
      features: output channels.
    """

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b i j o"]:
        """Returns the map of twice the size."""
        width = max(x.shape[-1] // 4, 1)
        x = ConvBN(width, 1, dtype=self.dtype, name="narrow")(x, train=train)
        x = ConvTranspose(width, 4, 2, 1, dtype=self.dtype, name="up")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="up_bn")(x, train=train))
        return ConvBN(self.features, 1, dtype=self.dtype, name="widen")(x, train=train)


class LinkNet(Decoder):
    """From the deepest map up to the image's size by transposed convolutions; finer maps are added on the way.

    Chaurasia & Culurciello 2017, arXiv:1707.03718; after `Linknet` of
    github.com/qubvel-org/segmentation_models.pytorch. Where the backbone has no map of a stride nothing is added. A
    mechanism may gate what is added.

    Attributes:
      channels: of a block without a map to add, such as the last.
    """

    channels: int = option(32, at_least=1)

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map at stride 1, or else at twice that at stride 2."""
        x, stride = features.deepest, max(features.maps)
        while stride > 1:
            stride //= 2
            skip = features.maps.get(stride)
            signal = x
            width = self.channels if skip is None else skip.shape[-1]
            x = LinkBlock(width, self.dtype, name=f"block{stride}")(x, train=train)
            if skip is not None:
                skip = gate(skip, signal, stride=stride, train=train) if gate else skip
                x = resize(x, skip.shape[1:3], "nearest") + skip
        return Output(classifier(self.num_classes, "classifier")(x))
