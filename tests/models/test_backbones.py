"""Sizes, parameter counts and reach of the backbones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones.resnet import Block
from attnseg_jax.weights.layouts import ENCODERS

# Parameters torchvision publishes, less its classifier `fc` (weights and biases of 1000 classes).
PARAMETERS = {
    "resnet18": 11_689_512 - 513_000,
    "resnet34": 21_797_672 - 513_000,
    "resnet50": 25_557_032 - 2_049_000,
    "resnet101": 44_549_160 - 2_049_000,
}


def abstract(model, size):
    return jax.eval_shape(lambda key: model.init_with_output(key, jnp.zeros((2, *size, 3))), jax.random.key(0))


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name):
    _, variables = abstract(BACKBONES[name](), (61, 83))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name, channels", [("resnet18", [64, 64, 128, 256, 512]), ("resnet50", [64, 256, 512, 1024, 2048])]
)
@pytest.mark.parametrize(
    "output_stride, sizes",
    [
        (32, [(31, 42), (16, 21), (8, 11), (4, 6), (2, 3)]),
        (16, [(31, 42), (16, 21), (8, 11), (4, 6), (4, 6)]),
        (8, [(31, 42), (16, 21), (8, 11), (8, 11), (8, 11)]),
    ],
)
def test_sizes_of_the_maps(name, channels, output_stride, sizes):
    features, variables = abstract(BACKBONES[name](output_stride=output_stride), (61, 83))
    assert {s: m.shape for s, m in features.maps.items()} == {
        2 ** (i + 1): (2, *size, c) for i, (size, c) in enumerate(zip(sizes, channels, strict=True))
    }
    _, usual = abstract(BACKBONES[name](), (61, 83))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, usual)  # the same weights serve all strides


def test_every_layout_is_that_of_a_backbone():
    assert {layout for module in BACKBONES.values() for layout in module.layouts} == set(ENCODERS)


def test_unknown_output_stride():
    with pytest.raises(UserError, match=r"config\.model\.backbone\.resnet34\.output_stride=4 .* 8, 16 or 32"):
        build_model({"backbone": {"name": "resnet34", "resnet34": {"output_stride": 4}}}, 7)


@pytest.mark.parametrize("width", [1, 0, -8])
def test_a_width_that_cannot_be(width):
    with pytest.raises(UserError, match=rf"config\.model\.backbone\.tiny\.width={width} must be at least 2"):
        build_model({"backbone": {"tiny": {"width": width}}}, 7)


@pytest.mark.parametrize("bottleneck, channels", [(False, 4), (True, 16)])
def test_zero_init_starts_as_the_shortcut(bottleneck, channels):
    x = jax.random.normal(jax.random.key(1), (1, 5, 7, channels))
    y, _ = Block(4, bottleneck, zero_init=True).init_with_output(jax.random.key(0), x, train=False)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    y, _ = Block(4, bottleneck).init_with_output(jax.random.key(0), x, train=False)
    assert abs(y - np.maximum(x, 0)).max() > 0.1


SIZE = (64, 96)


@pytest.fixture
def gradient_of_pixel(random_variables):
    """(attention) -> (pixel) -> gradient [h, w, c] of the sum of that pixel's logits by the image, in evaluation."""

    def make(attention):
        model = build_model({"attention": {"name": attention}}, num_classes=7)
        image = np.random.default_rng(1).standard_normal((1, *SIZE, 3)).astype(np.float32)
        variables = random_variables(model, image)

        @jax.jit
        @jax.grad
        def gradient(image, y, x):
            return model.apply(variables, image).logits[0, y, x].sum()

        return lambda pixel: np.asarray(gradient(image, *pixel)[0])

    return make


def test_the_default_model_without_attention_sees_27_pixels_at_most(gradient_of_pixel):
    gradient = gradient_of_pixel("none")
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    seen = []
    # Every phase of the stride 4, away from the border, and two corners.
    for pixel in [*((32 + i, 48 + i) for i in range(4)), (0, 0), (SIZE[0] - 1, SIZE[1] - 1)]:
        distance = np.maximum(abs(y - pixel[0]), abs(x - pixel[1]))
        found = gradient(pixel)
        assert not found[distance > 27].any()
        seen.append(int(distance[found.any(-1)].max()))
    assert max(seen) == 24  # 5 from the resizing, 4 from the head, 15 from the backbone


def test_the_default_model_with_attention_sees_the_far_end(gradient_of_pixel):
    gradient = gradient_of_pixel("self")
    assert np.abs(gradient((0, 0))[-4:, -4:]).max() > 0
    assert np.abs(gradient((SIZE[0] - 1, SIZE[1] - 1))[:4, :4]).max() > 0
