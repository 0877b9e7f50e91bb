"""Models that classify regions: windows, pooling and painting by loops; empty, small and missing regions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models.features import Features
from attnseg_jax.models.freeze import frozen_paths, without_gradients
from attnseg_jax.models.regions.fast_rcnn import FastRCNN
from attnseg_jax.models.regions.rcnn import RCNN

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 20, 28, 3)).astype(np.float32)
SMALL = IMAGE[:, :8, :9]
CLASSES = 5
KINDS = {
    "rcnn": {"kind": "rcnn", "rcnn": {"size": 8}},
    "align": {"kind": "fast_rcnn", "fast_rcnn": {"bins": 2, "channels": 9}},
    "pool": {"kind": "fast_rcnn", "fast_rcnn": {"bins": 2, "channels": 9, "pooling": "pool"}},
}


class Pixels(nn.Module):
    """A backbone whose map is the image."""

    def __call__(self, image, *, train=False):
        return Features({1: image})


class Cells(nn.Module):
    """A backbone whose map is the means of cells of 2 x 3 pixels, of the image padded at the right to whole ones."""

    def __call__(self, image, *, train=False):
        b, h, w, c = image.shape
        wide = -(-w // 6) * 6
        padded = jnp.pad(image, [(0, 0), (0, 0), (0, wide - w), (0, 0)])
        return Features({2: padded.reshape(b, h // 2, 2, wide // 3, 3, c).mean((2, 4))}, padded_size=(h, wide))


def boxes(image=IMAGE):
    """Regions with 4 x 4 boxes, most not whole, at two levels that overlap; three of six numbers are used."""
    regions = np.full((*image.shape[:3], 2), -1, np.int32)
    regions[:, :4, :4, 0] = 0
    regions[0, 1, 2, 0] = -1
    regions[:, 4:8, 5:9, 0] = 1
    regions[1, 4:6, 7:9, 0] = -1
    regions[:, 2:6, 3:7, 1] = 2
    regions[1, 2, 3, 1] = -1
    return regions


def model(name, regions=6):
    config = {**KINDS[name], "backbone": {"name": "tiny", "tiny": {"width": 8}}}
    return build_model(config, CLASSES, num_regions=regions)


@functools.cache
def variables(name):
    """Random ones, statistics included."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model(name).init, jax.random.key(0), IMAGE, boxes())
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.2, 1.2, x.shape), x.dtype), shapes)


def apply(name, image, regions, slots=6):
    return jax.jit(model(name, slots).apply)(variables(name), image, regions)


def expected(regions, features, kernel, bias):
    """Scores of regions painted by loops; `features(image, mask)` are those of one."""
    out = np.zeros((*regions.shape[:3], CLASSES))
    for b in range(len(regions)):
        scores = {}
        for r in set(regions[b].ravel().tolist()) - {-1}:
            scores[r] = features(SMALL[b].astype(float), (regions[b] == r).any(-1)) @ kernel + bias
        for y, x in np.ndindex(*regions.shape[1:3]):
            own = [scores[r] for r in regions[b, y, x] if r >= 0]
            if own:
                out[b, y, x] = np.max(own, axis=0)
    return out


@pytest.mark.thorough
def test_rcnn_equals_loops():
    regions = boxes(SMALL)
    rcnn = RCNN(Pixels(), CLASSES, 6, size=4)
    kernel, bias = RNG.standard_normal((6, CLASSES)), RNG.standard_normal(CLASSES)
    params = {"classifier": {"kernel": kernel[None, None].astype(np.float32), "bias": bias.astype(np.float32)}}

    def features(image, mask):
        ys, xs = np.nonzero(mask)
        box = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        assert image[box].shape == (4, 4, 3)
        return np.concatenate([image[box].mean((0, 1)), (image[box] * mask[box][..., None]).mean((0, 1))])

    out = rcnn.apply({"params": params}, SMALL, regions)
    np.testing.assert_allclose(out.logits, expected(regions, features, kernel, bias), atol=2e-5)
    for level in (0, 1):
        alone = expected(regions[..., level : level + 1], features, kernel, bias)
        np.testing.assert_allclose(out.aux[f"level{level}"], alone, atol=2e-5)


def maxima(image, mask):
    ys, xs = np.nonzero(mask)
    box = image[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    return np.concatenate([box.max((0, 1)), image[mask].max(0)])


def means(image, mask):
    """Over two by two samples of the box on the map of `Cells`; the same by the mask's shares of its cells."""
    image = np.pad(image, [(0, 0), (0, 12 - image.shape[1]), (0, 0)])
    mask = np.pad(mask, [(0, 0), (0, 12 - mask.shape[1])])
    cells, share = np.zeros((4, 4, 3)), np.zeros((4, 4))
    for y, x in np.ndindex(8, 12):
        cells[y // 2, x // 3] += image[y, x] / 6
        share[y // 2, x // 3] += mask[y, x] / 6
    ys, xs = np.nonzero(mask)
    sides = [(ys.min() / 2, (ys.max() + 1) / 2), (xs.min() / 3, (xs.max() + 1) / 3)]
    weights = np.zeros((4, 4))
    for a, b in np.ndindex(2, 2):
        y, x = (min(max(low + (t + 0.5) / 2 * (high - low) - 0.5, 0), 3) for (low, high), t in zip(sides, (a, b)))
        for i, j in np.ndindex(4, 4):
            weights[i, j] += max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0) / 4
    inside = weights * share
    return np.concatenate([np.tensordot(w, cells, 2) for w in (weights, inside / inside.sum())])


@pytest.mark.parametrize("pooling, backbone, pooled", [("pool", Pixels(), maxima), ("align", Cells(), means)])
def test_fast_rcnn_equals_loops(pooling, backbone, pooled):
    regions = boxes(SMALL)
    fast = FastRCNN(backbone, CLASSES, 6, pooling=pooling, bins=1, channels=7)
    shapes = jax.eval_shape(fast.init, jax.random.key(0), SMALL, regions)["params"]
    params = jax.tree.map(lambda x: RNG.uniform(-1, 1, x.shape).astype(np.float32), shapes)
    layers = {name: {k: np.asarray(v, float) for k, v in params[name].items()} for name in params}
    kernel, bias = layers["classifier"]["kernel"][0, 0], layers["classifier"]["bias"]

    def features(image, mask):
        x = pooled(image, mask)
        for name in ("fc1", "fc2"):
            x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0)
        return x

    # Maxima are one operation after another for every cell of a bin, which takes long to compile as one program.
    run = fast.apply if pooling == "pool" else jax.jit(fast.apply)
    out = run({"params": params}, SMALL, regions)
    np.testing.assert_allclose(out.logits, expected(regions, features, kernel, bias), atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("name", KINDS)
def test_small_and_missing_regions(name):
    """One pixel, all of it at a border, and an image without regions: finite values and gradients, 0 for no region."""
    image = IMAGE[:, :12, :16]
    regions = np.full((2, 12, 16, 1), -1, np.int32)
    regions[0, 11, 15], regions[0, :, 0], regions[0, 7, 9] = 0, 1, 2

    def loss(params):
        out = model(name).apply({**variables(name), "params": params}, image, regions)
        return (out.logits**2).sum(), out.logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(variables(name)["params"])
    logits = np.asarray(logits)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient)) and np.isfinite(logits).all()
    assert not logits[1].any()
    assert np.array_equal(logits[0].any(-1), (regions[0, ..., 0] >= 0))
    # What the regions of an image are does not depend on those of another.
    alone = apply(name, image[:1], regions[:1]).logits
    np.testing.assert_allclose(alone[0], logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["rcnn", "align"])
def test_numbers_and_slots_do_not_matter(name):
    regions, order = boxes(), np.array([5, 3, 0])
    renamed = np.where(regions >= 0, order[regions], -1).astype(np.int32)
    logits = apply(name, IMAGE, regions).logits
    np.testing.assert_allclose(apply(name, IMAGE, renamed).logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(apply(name, IMAGE, regions, slots=3).logits, logits, rtol=1e-4, atol=1e-4)


def test_empty_slots_do_not_enter_the_statistics():
    """Three regions in three slots, and each of them twice in six."""

    given = variables("rcnn")

    @functools.partial(jax.jit, static_argnames="slots")
    def statistics(regions, slots):
        return model("rcnn", slots).apply(given, IMAGE, regions, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    three, six, other = (
        traverse_util.flatten_dict(statistics(*given), sep="/")
        for given in ((boxes(), 3), (boxes(), 6), (np.where(boxes() == 1, -1, boxes()), 3))
    )
    for name in three:
        # Variances are unbiased, those of fewer values larger.
        tolerance = 0.03 if name.endswith("/var") else 1e-4
        np.testing.assert_allclose(three[name], six[name], rtol=tolerance, err_msg=name)
    assert any(np.abs(three[name] / other[name] - 1).max() > 1e-3 for name in three if name.endswith("/mean"))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["rcnn", "align"])
def test_a_sample_in_training(name):
    """Training counts the slots that are drawn, everything else all of them."""
    config = {**KINDS[name], "backbone": {"name": "tiny", "tiny": {"width": 8}}}
    config["fast_rcnn"] = {**config.get("fast_rcnn", {}), "dropout": 0.0}
    six, three, drawn = (
        build_model(config, CLASSES, num_regions=n, num_sampled=s) for n, s in ((6, 0), (3, 0), (6, 3))
    )

    def run(model, train):
        apply = functools.partial(model.apply, train=train, mutable=["batch_stats"])
        return jax.jit(apply)(variables(name), IMAGE, boxes())

    for train, same in ((True, three), (False, six)):
        jax.tree.map(np.testing.assert_array_equal, run(drawn, train), run(same, train))
    # The slots show in the shapes of the program.
    shapes = [str(jax.make_jaxpr(lambda m=m: run(m, True))()) for m in (drawn, three, six)]
    assert shapes[0] == shapes[1] != shapes[2]


@pytest.mark.parametrize("name", ["rcnn", "align"])
def test_a_frozen_backbone_has_no_gradient(name):
    config = {**KINDS[name], "backbone": {"name": "tiny", "tiny": {"width": 8}, "freeze": "all"}}
    frozen = frozen_paths(config, variables(name))

    def loss(params):
        given = {**variables(name), "params": without_gradients(params, frozen)}
        return (build_model(config, CLASSES, num_regions=6).apply(given, IMAGE, boxes()).logits ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(variables(name)["params"])
    assert not any(x.any() for x in jax.tree.leaves(gradient.pop("backbone")))
    assert all(x.any() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "config, regions, message",
    [
        ({"kind": "rcnn"}, 0, r"kind='rcnn' classifies regions .* config\.data\.regions\.method"),
        ({}, 4, r"kind='segmenter' has no use for regions: set config\.data\.regions\.method='none'.* 'rcnn'"),
        ({"kind": "fast_rcn"}, 4, "kind='fast_rcn' is unknown: did you mean 'fast_rcnn'"),
        ({"kind": "rcnn", "rcnn": {"sise": 3}}, 4, r"config\.model\.rcnn\.sise is unknown: did you mean 'size'"),
    ],
)
def test_refused_when_built(config, regions, message):
    with pytest.raises(UserError, match=message):
        build_model(config, CLASSES, num_regions=regions)


@pytest.mark.parametrize(
    "kind, option, message",
    [
        ("rcnn", {"size": 0}, r"config\.model\.rcnn\.size=0 must be at least 1"),
        ("fast_rcnn", {"bins": 0}, r"config\.model\.fast_rcnn\.bins=0 must be at least 1"),
        ("fast_rcnn", {"channels": 0}, r"config\.model\.fast_rcnn\.channels=0 must be at least 1"),
        ("fast_rcnn", {"dropout": 1.0}, r"config\.model\.fast_rcnn\.dropout=1\.0 must be at least 0 and below 1"),
        ("fast_rcnn", {"pooling": "alin"}, r"config\.model\.fast_rcnn\.pooling='alin' .* did you mean 'align'"),
    ],
)
def test_options_out_of_range(kind, option, message):
    with pytest.raises(UserError, match=message):
        build_model({"kind": kind, kind: option}, CLASSES, num_regions=6)
