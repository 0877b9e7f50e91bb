"""SegNet's decoder (Badrinarayanan et al. 2017, arXiv:1511.00561): un-pooling by the encoder's own indices."""

from flax import linen as nn

from attnseg_jax.errors import OptionError
from attnseg_jax.models.backbones.vgg import POOL_INDICES
from attnseg_jax.models.decoders.base import Decoder, Gate
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import ConvBN, classifier, he_normal
from attnseg_jax.models.options import option
from attnseg_jax.ops import pool


class SegNet(Decoder):
    """The encoder in mirror image: each stage un-pools by the indices of its pooling, then convolves what is sparse.

    A stage has the channels of the map its indices point into, but its last convolution those of the next stage. The
    last convolution of all is the classifier. A mechanism before the decoder that changes the number of channels is
    followed by a 1x1 convolution back to them.

    SegNet-Basic has the backbone `segnet_basic`, `depths=(2, 1, 1, 1)`, `kernel_size=7`, `classifier_size=1` and
    `relu=False`.

    Attributes:
      depths: convolutions of every stage, from the finest on; those of VGG-16 by default.
      kernel_size: of every convolution, an odd number.
      classifier_size: the classifier's, an odd number; 0 takes that of the others.
      relu: a ReLU after every convolution but the classifier.
    """

    depths: tuple[int, ...] = option((2, 2, 3, 3, 3), at_least=1, at_most=100)
    kernel_size: int = option(3, at_least=1, at_most=255, odd=True)
    classifier_size: int = option(0, at_least=0)
    relu: bool = True

    @nn.compact
    def __call__(self, features: Features, *, gate: Gate | None = None, train: bool = False) -> Output:
        """Returns logits at the size of the finest map that was pooled; there are no skips for `gate` to weight."""
        last_size = self.classifier_size or self.kernel_size
        if last_size % 2 == 0:
            raise OptionError("classifier_size", self.classifier_size, "must be odd, so that maps keep their size")
        indices = features.extras.get(POOL_INDICES, {})
        if not indices:
            hint = (
                "un-pools by the indices of the backbone's poolings, and this backbone hands on none: choose the "
                "backbone vgg16_bn, vgg16 or segnet_basic"
            )
            raise OptionError("", type(self).__name__, hint)
        if len(indices) != len(self.depths):
            hint = (
                f"wants the indices of {len(self.depths)} poolings; the backbone hands on {len(indices)}: change "
                "depths, or set output_stride=32 of a VGG"
            )
            raise OptionError("depths", self.depths, hint)
        stages = list(zip(sorted(indices), self.depths))
        activation = nn.relu if self.relu else None
        x = features.deepest
        if x.shape[-1] != indices[stages[-1][0]].shape[-1]:
            x = ConvBN(indices[stages[-1][0]].shape[-1], 1, dtype=self.dtype, name="project")(x, train=train)
        for stage, (stride, depth) in reversed(list(enumerate(stages))):
            x = pool.max_unpool(x, indices[stride], features.maps[stride].shape[1:3], 2)
            last = stage == 0
            for i in range(depth - last):
                finer = x.shape[-1] if last or i < depth - 1 else indices[stages[stage - 1][0]].shape[-1]
                name = f"stage{stride}_{i}"
                conv = ConvBN(finer, self.kernel_size, activation=activation, dtype=self.dtype, name=name)
                x = conv(x, train=train)
        # As in the original. From the small start of other heads, four images were not learnt in 150 steps.
        return Output(classifier(self.num_classes, "classifier", last_size, he_normal)(x))
