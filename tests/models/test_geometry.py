"""Every backbone says for which images its maps fit, and they do."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from attnseg_jax.data.transforms.fields import padded_size
from attnseg_jax.errors import UserError
from attnseg_jax.models import build_model
from attnseg_jax.models.backbones import BACKBONES
from attnseg_jax.models.backbones.base import Backbone
from attnseg_jax.models.decoders import DECODERS
from attnseg_jax.models.features import Features
from attnseg_jax.models.geometry import stride_multiple

# Backbone, options, what its papers' strides give.
CASES = [
    ("tiny", {}, 4),
    ("resnet18", {}, 32),
    ("resnet18", {"output_stride": 8}, 8),
    ("resnet50_v1c", {"output_stride": 16}, 16),
    ("efficientnet_lite0", {"output_stride": 16}, 16),
    ("mobilenet_v3_large", {"output_stride": 16}, 16),
    ("vgg16_bn", {}, 32),
    ("vgg16", {"output_stride": 8}, 8),
    ("segnet_basic", {}, 16),
    ("unet", {"width": 4}, 16),
    ("mit_b0", {}, 32),
    ("vit_ti", {}, 16),
    ("vit_ti", {"patch_size": 14}, 14),
    ("vit_ti", {"pyramid": True}, 32),
    # Two cells of its finest map are 7 pixels.
    ("vit_ti", {"patch_size": 14, "pyramid": True}, 28),
    ("dinov2_vit_s", {}, 14),
    ("dinov3_vit_s", {}, 16),
    ("swin_t", {}, 32),
    ("convnext_t", {}, 32),
    ("convnextv2_atto", {}, 32),
    ("mscan_t", {}, 32),
    ("efficientvit_b0", {}, 32),
    ("ddrnet23_slim", {}, 8),
    ("pidnet_s", {}, 8),
    ("dinov3_convnext_t", {}, 32),
]


def maps(backbone, size):
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    features, _ = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x), image)
    assert features.padded_size is None
    return {stride: x.shape[1:3] for stride, x in features.maps.items()}


@pytest.mark.thorough
@pytest.mark.parametrize("name, options, wanted", CASES)
def test_maps_of_a_padded_image_are_whole(name, options, wanted):
    backbone = BACKBONES[name](**options)
    assert backbone.size_multiple == wanted
    # One pixel too many on one axis, one too few on the other. A row too many or too few of 3 times as many pixels is
    # no column too many or too few of 5 times as many.
    h, w = padded_size((2 * wanted + 1, 5 * wanted - 1), wanted)
    strides = {Fraction(h, rows): Fraction(w, columns) for rows, columns in maps(backbone, (h, w)).values()}
    assert all(rows == columns for rows, columns in strides.items())
    assert math.lcm(*(stride.numerator for stride in strides)) == wanted


def test_every_family_is_tried():
    tried = {type(BACKBONES[name]()).__mro__[1] for name, _, _ in CASES} | {BACKBONES[name] for name, _, _ in CASES}
    assert all(backbone in tried or backbone.__mro__[1] in tried for backbone in BACKBONES.values())


class Cells(Backbone):
    """A map whose cells have this many pixels, with some rows more than there are."""

    cell: int = 6
    margin: int = 0

    @nn.compact
    def __call__(self, image, *, train=False):
        return Features(
            {self.cell: jnp.pad(image[:, :: self.cell, :: self.cell], [(0, 0), *[(self.margin,) * 2] * 2, (0, 0)])}
        )


class Fixed(Backbone):
    """One that resizes what it is given."""

    @nn.compact
    def __call__(self, image, *, train=False):
        return Features({8: image[:, :9, :9]})


class Declared(Fixed):
    size_multiple = 8


@pytest.mark.parametrize("cell, margin", [(6, 0), (6, 2), (5, 1), (20, 0), (16, 3)])
def test_a_backbone_from_outside_need_not_say_it(cell, margin):
    assert Cells(cell=cell, margin=margin).size_multiple == cell


def test_maps_without_strides():
    with pytest.raises(UserError, match=r"Fixed: its maps have no strides.*size_multiple"):
        stride_multiple(Fixed())
    assert Declared().size_multiple == 8


@pytest.mark.thorough
@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_have_the_size_of_the_padded_image(decoder):
    """Whatever the decoder does to the maps, it is drawn over all that they cover."""
    visits = DECODERS[decoder].visits
    config = {"backbone": {"name": "vit_ti" if visits else "vgg16_bn"}, "decoder": {"name": decoder}}
    model = build_model(config, 5)
    assert model.size_multiple == (16 if visits else 32)
    size = padded_size((65, 95), 32)
    output = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, *size, 3)))
    assert output.logits.shape == (1, *size, 5)


def test_windows_of_regions_need_no_padding():
    config = {"kind": "rcnn", "backbone": {"name": "resnet18"}}
    assert build_model(config, 5, num_regions=3).size_multiple == 1
    assert build_model({**config, "kind": "fast_rcnn"}, 5, num_regions=3).size_multiple == 32
