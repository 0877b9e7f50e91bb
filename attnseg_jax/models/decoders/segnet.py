"""SegNet's decoder (Badrinarayanan et al. 2017, arXiv:1511.00561): un-pooling by the encoder's own indices."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import UserError, check_least
from attnseg_jax.models.backbones.vgg import POOL_INDICES
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import ConvBN, Dtype, classifier, he_normal
from attnseg_jax.ops import pool


class SegNet(nn.Module):
    """The encoder in mirror image: each stage un-pools by the indices of its pooling, then convolves what is sparse.

    A stage has the channels of the map its indices point into, but its last convolution those of the next stage. The
    last convolution of all is the classifier. A mechanism before the decoder that changes the number of channels is
    followed by a 1x1 convolution back to them.

    SegNet-Basic has the backbone `segnet_basic`, `depths=(2, 1, 1, 1)`, `kernel_size=7`, `classifier_size=1` and
    `relu=False`.

    Attributes:
      num_classes: channels of the logits.
      depths: convolutions of every stage, from the finest on; those of VGG-16 by default.
      kernel_size: of every convolution, an odd number.
      classifier_size: the classifier's, an odd number; 0 takes that of the others.
      relu: rectifies the result of every convolution but the classifier.
      dtype: compute type.
    """

    num_classes: int
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    kernel_size: int = 3
    classifier_size: int = 0
    relu: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Features, *, gate: Callable | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map that was pooled; there are no skips for `gate` to weight.

        Raises:
          UserError: the backbone has no pooling indices, or not one for each stage; an option out of its range.
        """
        path = "config.model.decoder.segnet"
        check_least(path, 1, depths=min(self.depths, default=0), kernel_size=self.kernel_size)
        check_least(path, 0, classifier_size=self.classifier_size)
        last_size = self.classifier_size or self.kernel_size
        for key, size in (("kernel_size", self.kernel_size), ("classifier_size", last_size)):
            if size % 2 == 0:
                raise UserError(f"{path}.{key}={size} must be odd, so that maps keep their size")
        indices = features.extras.get(POOL_INDICES, {})
        if not indices:
            raise UserError(
                "config.model.decoder.name='segnet' un-pools by the indices of the backbone's poolings, and this "
                "backbone hands on none: choose config.model.backbone.name='vgg16_bn', 'vgg16' or 'segnet_basic'"
            )
        if len(indices) != len(self.depths):
            raise UserError(
                f"{path}.depths={self.depths} wants the indices of {len(self.depths)} poolings; "
                f"the backbone hands on {len(indices)}: change depths, or set output_stride=32 of a VGG"
            )
        stages = list(zip(sorted(indices), self.depths))
        x = features.deepest
        if x.shape[-1] != indices[stages[-1][0]].shape[-1]:
            x = ConvBN(indices[stages[-1][0]].shape[-1], 1, dtype=self.dtype, name="project")(x, train=train)
        for stage, (stride, depth) in reversed(list(enumerate(stages))):
            x = pool.max_unpool(x, indices[stride], features.maps[stride].shape[1:3], 2)
            last = stage == 0
            for i in range(depth - last):
                finer = x.shape[-1] if last or i < depth - 1 else indices[stages[stage - 1][0]].shape[-1]
                conv = ConvBN(finer, self.kernel_size, relu=self.relu, dtype=self.dtype, name=f"stage{stride}_{i}")
                x = conv(x, train=train)
        # As in the original. From the small start of other heads, four images were not learnt in 150 steps.
        return Output(classifier(self.num_classes, "classifier", last_size, he_normal)(x))
