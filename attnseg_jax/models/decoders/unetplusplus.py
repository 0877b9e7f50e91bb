"""UNet++ (Zhou et al. 2018), after segmentation_models_pytorch's `decoders/unetplusplus`."""

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.decoders.unet import UNetBlock, steps_up
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import classifier
from attnseg_jax.models.options import option


class UNetPlusPlus(Decoder):
    """A U-Net from every map of the backbone upwards, each of whose blocks sees the blocks below it at its stride.

    Zhou et al. 2018, arXiv:1807.10165; after `UnetPlusPlus` of github.com/qubvel-org/segmentation_models.pytorch. Node
    0 of a stride has the channels of the option, the others have those of the backbone's map. Where the backbone has no
    map of a stride only node 0 goes on, without skips. It gates no skips.

    Attributes:
      channels: of the nodes 0, coarse to fine, the last at stride 1; the last ones for a backbone of a smaller stride.
      scse: gates channels and positions in every block (Roy et al. 2018, arXiv:1803.02579).
    """

    channels: tuple[int, ...] = option((256, 128, 64, 32, 16), at_least=1)
    scse: bool = False

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map at stride 1, or else at twice that at stride 2."""
        # What the blocks of the coarser stride gave, by node; last the backbone's map there, as of a node of its own.
        below = {0: features.deepest}
        for number, (stride, channels) in enumerate(steps_up(features, self.channels)):
            skip = features.maps.get(stride)
            here = {}
            # From the backbone's side: a node sees all that come before it here.
            for node in sorted(below, reverse=True) if skip is not None else [0]:
                seen = [] if skip is None else [*(here[i] for i in sorted(here)), skip]
                width = channels if node == 0 else skip.shape[-1]
                block = UNetBlock(width, stride, scse=self.scse, dtype=self.dtype, name=f"node{node}_{stride}")
                together = jnp.concatenate([x.astype(self.dtype) for x in seen], axis=-1) if seen else None
                here[node] = block(below[node], together, None, train=train)
            below = here | ({} if skip is None else {number + 1: skip})
        return Output(classifier(self.num_classes, "classifier", 3)(here[0]))
