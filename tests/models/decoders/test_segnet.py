"""SegNet: channels of the mirrored stages, where values go, gradients end to end, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import Features
from attnseg_jax.models.backbones.vgg import POOL_INDICES
from attnseg_jax.models.decoders import SegNet
from attnseg_jax.ops import pool

CONFIG = {"backbone": {"name": "vgg16_bn"}, "attention": {"name": "none"}, "decoder": {"name": "segnet"}}


def built(options):
    return build_model({**CONFIG, "decoder": {"name": "segnet", "segnet": options}}, 3)


def encode(image, stages=2):
    """Features of an encoder that only pools."""
    maps, indices = {}, {}
    for stage in range(stages):
        maps[2**stage] = image
        image, indices[2**stage] = pool.max_pool_with_indices(image, 2)
    return Features({**maps, 2**stages: image}, {POOL_INDICES: indices})


def test_the_decoder_mirrors_vgg16():
    """Channels of the paper's table: 26 convolutions in all, the last one the classifier."""
    model = build_model(CONFIG, 7)
    image = jnp.zeros((2, 61, 83, 3))
    out, variables = jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))
    assert out.logits.shape == (2, 61, 83, 7) and out.logits.dtype == jnp.float32
    decoder = variables["params"]["decoder"]
    assert decoder.pop("classifier")["kernel"].shape == (3, 3, 64, 7)
    found = {name: stage["conv"]["kernel"].shape for name, stage in decoder.items()}
    channels = {16: [512, 512, 512, 512], 8: [512, 512, 512, 256], 4: [256, 256, 256, 128], 2: [128, 128, 64]}
    expected = {f"stage{s}_{i}": (3, 3, *c[i : i + 2]) for s, c in channels.items() for i in range(len(c) - 1)}
    assert found == {**expected, "stage1_0": (3, 3, 64, 64)}
    assert len(found) + 1 == 13


@pytest.mark.parametrize("size", [0, 1])
def test_the_classifier_starts_as_large_as_its_input(size):
    """The variance of its weights is 2 / fan-in: with a deviation of 0.01 SegNet did not learn four images."""
    decoder = SegNet(300, depths=(1,), classifier_size=size)
    variables = decoder.init(jax.random.key(0), encode(jnp.ones((1, 8, 6, 64)), stages=1))
    kernel = variables["params"]["classifier"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / np.prod(kernel.shape[:3])), rtol=0.02)


def centre(kernel):
    """A convolution that leaves everything as it is."""
    size = kernel.shape[0]
    middle = np.arange(size**2).reshape(size, size, 1, 1) == size**2 // 2
    return np.zeros(kernel.shape, np.float32) + np.eye(*kernel.shape[2:], dtype=np.float32) * middle


BASIC = {"depths": (2, 1), "kernel_size": 7, "classifier_size": 1, "relu": False}


@pytest.mark.parametrize("options, sign", [({"depths": (1, 2)}, 1), (BASIC, -1)])
def test_values_return_to_their_places(options, sign):
    """With convolutions that change nothing, the maxima of the poolings stand alone where they were.

    Without rectifiers, as in SegNet-Basic, negative ones do too.
    """
    x = (sign * np.random.default_rng(0).uniform(0.1, 1, (2, 11, 14, 5))).astype(np.float32)
    features = encode(jnp.asarray(x))
    model = SegNet(5, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), features)

    def fill(path, leaf):
        name = path[-1].key
        return centre(leaf) if name == "kernel" else np.full(leaf.shape, name in ("scale", "var"), np.float32)

    out = jax.jit(model.apply)(jax.tree_util.tree_map_with_path(fill, shapes), features)
    expected = np.zeros_like(x)
    for b, i, j, c in np.ndindex(2, 2, 3, 5):
        window = x[b, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4, c]
        y, z = np.unravel_index(window.argmax(), window.shape)
        expected[b, 4 * i + y, 4 * j + z, c] = window.max()
    np.testing.assert_allclose(out.logits, expected, rtol=1e-4)


@pytest.mark.slow
def test_it_trains_from_end_to_end(random_variables):
    """Every parameter of encoder and decoder gets a gradient, at an odd size, and a few steps lower the loss."""
    model = build_model(CONFIG, 3)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 37, 51, 3)).astype(np.float32)
    labels = (image.sum(-1) > 0).astype(np.int32)
    variables = random_variables(model, image)

    @jax.jit
    @functools.partial(jax.value_and_grad)
    def loss(params):
        out, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        log = jax.nn.log_softmax(out.logits)
        return -jnp.take_along_axis(log, jnp.asarray(labels)[..., None], -1).mean()

    params, values = variables["params"], []
    for _ in range(6):
        value, gradient = loss(params)
        values.append(float(value))
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        # A bias before a norm has none by nature.
        assert np.isfinite(leaf).all() and (np.abs(leaf).max() > 0 or "bias" in name), name
    assert values[-1] < 0.9 * values[0]


@pytest.mark.thorough
def test_gradients_reach_the_encoder_through_the_maxima_only(random_variables):
    features = encode(jnp.asarray(np.random.default_rng(0).standard_normal((1, 9, 7, 4)), jnp.float32))
    model = SegNet(3, depths=(1, 1))
    variables = random_variables(model, features)

    @jax.jit
    @jax.grad
    def gradient(image):
        return (model.apply(variables, encode(image)).logits ** 2).sum()

    found = gradient(features.maps[1])
    twice = pool.max_unpool(
        pool.max_unpool(features.maps[4], features.extras[POOL_INDICES][2], features.maps[2].shape[1:3], 2),
        features.extras[POOL_INDICES][1],
        (9, 7),
        2,
    )
    np.testing.assert_array_equal(found != 0, twice != 0)


def test_a_mechanism_that_changes_the_channels():
    features = encode(jnp.ones((1, 9, 7, 4)))
    model = SegNet(3, depths=(1, 1))
    wide = features.with_deepest(jnp.ones((1, 2, 1, 6)))
    out, variables = jax.eval_shape(lambda key: model.init_with_output(key, wide), jax.random.key(0))
    assert out.logits.shape == (1, 9, 7, 3)
    assert variables["params"]["project"]["conv"]["kernel"].shape == (1, 1, 6, 4)


@pytest.mark.parametrize(
    "backbone, message",
    [
        (
            {"name": "resnet18"},
            r"config\.model\.decoder\.segnet un-pools by .* backbone hands on none: choose .* vgg16_bn, vgg16 or s",
        ),
        (
            {"name": "vgg16", "vgg16": {"output_stride": 16}},
            r"config\.model\.decoder\.segnet\.depths=.* wants the indices of 5 poolings; the backbone hands on 4",
        ),
    ],
)
def test_backbones_without_indices_are_refused(backbone, message):
    model = build_model({**CONFIG, "backbone": backbone}, 7)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 61, 83, 3)))


def test_a_kernel_that_would_change_the_size_is_refused():
    with pytest.raises(UserError, match=r"config\.model\.decoder\.segnet\.kernel_size=2 must be odd"):
        built({"kernel_size": 2})


@pytest.mark.parametrize("size, message", [(2, "2 must be odd"), (-1, "-1 must be at least 0")])
def test_a_classifier_that_cannot_be_is_refused(size, message):
    with pytest.raises(UserError, match=rf"config\.model\.decoder\.segnet\.classifier_size={message}"):
        jax.eval_shape(built({"classifier_size": size}).init, jax.random.key(0), jnp.zeros((1, 61, 83, 3)))


def test_stages_without_a_convolution_are_refused():
    with pytest.raises(UserError, match=r"config\.model\.decoder\.segnet\.depths=.* must be numbers of at least 1"):
        built({"depths": (1, 0)})
