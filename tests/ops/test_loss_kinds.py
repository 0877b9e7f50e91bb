"""The losses beside cross-entropy: values and gradients of float64 oracles, and what all losses have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from loss_oracles import WEIGHTS, B, H, K, W, boundary, draw, focal, lovasz, ohem, overlap

from attnseg_jax.ops import losses
from attnseg_jax.ops.losses.pixels import hard_pixels

DEVICE_WEIGHTS = jnp.asarray(WEIGHTS, jnp.float32)
# Name -> the loss, the oracle; both with the same options.
CASES = {
    "dice": (losses.dice, lambda z, y: overlap(z, y, 0.5, 0.5)),
    "dice_smooth_log": (
        functools.partial(losses.dice, smooth=2.0, log=True, classes=(4, 1)),
        lambda z, y: overlap(z, y, 0.5, 0.5, smooth=2.0, log=True, classes=(4, 1)),
    ),
    "jaccard": (losses.jaccard, lambda z, y: overlap(z, y, 1, 1)),
    "tversky": (
        functools.partial(losses.tversky, alpha=0.2, beta=0.9, gamma=0.7),
        lambda z, y: overlap(z, y, 0.2, 0.9, gamma=0.7),
    ),
    "focal": (losses.focal, focal),
    "focal_options": (
        functools.partial(losses.focal, gamma=0.5, alpha=0.3, normalized=True, class_weights=DEVICE_WEIGHTS),
        lambda z, y: focal(z, y, 0.5, 0.3, True, WEIGHTS),
    ),
    "ohem": (losses.ohem, ohem),
    "ohem_options": (
        functools.partial(losses.ohem, threshold=0.0, min_kept=0.4, class_weights=DEVICE_WEIGHTS, label_smoothing=0.2),
        lambda z, y: ohem(z, y, 0.0, 0.4, WEIGHTS, 0.2),
    ),
    "lovasz": (losses.lovasz, lovasz),
    "boundary": (functools.partial(losses.boundary, tolerance=1), lambda z, y: boundary(z, y, 1)),
    "cross_entropy": (losses.cross_entropy, lambda z, y: ohem(z, y, 1.1)),
}


VALUES = {
    **CASES,
    "boundary_default": (losses.boundary, boundary),
    "boundary_wide": (functools.partial(losses.boundary, width=2), lambda z, y: boundary(z, y, width=2)),
}


@functools.cache
def evaluate():
    """All losses' means and gradients at once: `(logits, labels) -> {name: (value, gradient)}`."""

    def everything(logits, labels):
        return {
            name: jax.value_and_grad(lambda z: losses.mean(*loss(z, labels)))(logits)  # noqa: B023
            for name, (loss, _) in CASES.items()
        }

    return jax.jit(everything)


@functools.cache
def found():
    return evaluate()(*map(jnp.asarray, draw()))


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_of_the_oracle(name):
    """The gradient along two directions, which reach all pixels, is the difference quotient of the oracle."""
    logits, labels = draw()
    oracle = CASES[name][1]
    value, gradient = found()[name]
    exact = logits.astype(np.float64)
    np.testing.assert_allclose(value, oracle(exact, labels), rtol=3e-6)
    for seed in range(2):
        direction = np.random.default_rng(seed).standard_normal(logits.shape)
        slope = (oracle(exact + 1e-6 * direction, labels) - oracle(exact - 1e-6 * direction, labels)) / 2e-6
        assert float((np.asarray(gradient, np.float64) * direction).sum()) == pytest.approx(slope, rel=2e-5, abs=1e-7)


def test_ignored_pixels_have_exactly_no_gradient_even_if_their_logits_are_infinite():
    logits, labels = draw()
    ignored = labels == 255
    wild = np.where(ignored[..., None], np.float32(np.inf), logits)
    for name, (value, gradient) in evaluate()(jnp.asarray(wild), jnp.asarray(labels)).items():
        assert (np.asarray(gradient)[ignored] == 0).all(), name
        np.testing.assert_array_equal(value, found()[name][0])
        np.testing.assert_array_equal(gradient, found()[name][1])
        if name not in ("ohem", "ohem_options"):
            assert np.asarray(gradient)[~ignored].any(-1).mean() > 0.9, name


def test_no_valid_pixel_gives_zero_and_zero_gradient():
    logits, labels = draw()
    for name, (value, gradient) in evaluate()(jnp.asarray(logits), jnp.full_like(labels, 255)).items():
        assert float(value) == 0 and (np.asarray(gradient) == 0).all(), name


def test_a_label_that_is_no_class_is_not_silent():
    logits, labels = draw()
    for wrong in (-1, K):
        for name, (value, _) in evaluate()(jnp.asarray(logits), jnp.asarray(labels).at[0, 0, 0].set(wrong)).items():
            assert np.isnan(value), name


def test_a_logit_that_is_no_number_is_not_silent():
    logits, labels = draw()
    place = np.argwhere(labels != 255)[0]
    for name, (value, _) in evaluate()(jnp.asarray(logits).at[tuple(place)].set(jnp.nan), jnp.asarray(labels)).items():
        assert np.isnan(value), name


def test_a_perfect_prediction_costs_nothing():
    _, labels = draw()
    logits = 200.0 * (labels[..., None] == np.arange(K)) - 100.0
    values = evaluate()(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    for name, (value, gradient) in values.items():
        # Where most of one class's pixels are not kept, the smoothing is what remains.
        assert abs(float(value)) < 1e-6 or name in ("ohem_options", "focal_options"), name
        assert np.isfinite(gradient).all(), name


def summed(name, axis_name=None):
    """`(logits, labels) -> (loss_sum, count)` and the gradient of the former."""
    loss = CASES[name][0]
    function = loss.func if isinstance(loss, functools.partial) else loss
    if axis_name and function not in (losses.cross_entropy, losses.lovasz):
        loss = functools.partial(loss, axis_name=axis_name)
    return jax.value_and_grad(loss, has_aux=True)


def test_shard_map_with_its_checks():
    """One image on each of 3 devices, each with a mean of its own."""
    logits, labels = draw()
    mesh = jax.make_mesh((B,), ("data",), devices=jax.devices()[:B], axis_types=(AxisType.Auto,))

    def alone(logits, labels):
        return {name: losses.mean(*loss(logits, labels))[None] for name, (loss, _) in CASES.items()}

    spread = jax.jit(jax.shard_map(alone, mesh=mesh, in_specs=P("data"), out_specs=P("data")))(logits, labels)
    one = jax.jit(alone)
    for i in range(B):
        for name, value in one(logits[i : i + 1], labels[i : i + 1]).items():
            np.testing.assert_allclose(spread[name][i], value[0], rtol=1e-6, err_msg=name)


def test_shares_and_probabilities_beyond_1():
    logits, labels = draw()
    for options in ({"min_kept": 100}, {"min_kept": -0.1}, {"threshold": 7}):
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            losses.ohem(logits, labels, **options)


def test_devices_add_up():
    """One image on each of 3 devices, of which one has no valid pixel: sums, counts and gradients are those of all."""
    logits, labels = draw()
    spread_cases = [name for name in CASES if name not in ("dice_smooth_log", "ohem")]  # others cover these

    def step(logits, labels):
        results = {}
        for name in spread_cases:
            (loss_sum, count), gradient = summed(name, "data")(logits, labels)
            total = jax.lax.psum(count, "data")
            results[name] = jax.lax.psum(loss_sum, "data") / total, gradient / total
        return results

    spread = jax.pmap(step, axis_name="data", devices=jax.devices()[:B])(logits[:, None], labels[:, None])
    for name in spread_cases:
        value, gradient = found()[name]
        np.testing.assert_allclose(spread[name][0], np.full(B, value), rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(spread[name][1][:, 0], gradient, rtol=2e-5, atol=2e-8, err_msg=name)


@functools.cache
def values():
    """The means alone: `(logits, labels) -> {name: value}`."""
    return jax.jit(lambda z, y: {name: losses.mean(*loss(z, y)) for name, (loss, _) in VALUES.items()})


def test_computes_in_float32_whatever_the_logits_are():
    logits, labels = draw()
    low = jnp.asarray(logits, jnp.bfloat16)
    for name, value in values()(low, jnp.asarray(labels)).items():
        expected = VALUES[name][1](np.asarray(low, np.float64), labels)
        np.testing.assert_allclose(value, expected, rtol=3e-6, err_msg=name)
        assert value.dtype == jnp.float32


def test_an_empty_batch():
    for name, value in values()(jnp.zeros((0, H, W, K)), jnp.zeros((0, H, W), jnp.int32)).items():
        assert float(value) == 0, name


def test_wrong_shapes():
    logits, labels = draw()
    for loss, _ in CASES.values():
        with pytest.raises(ValueError, match="do not fit"):
            loss(jnp.asarray(logits), jnp.asarray(labels[:, 1:]))
    with pytest.raises(ValueError, match=r"classes=\(1, 5\) must be among the 5"):
        losses.dice(jnp.asarray(logits), jnp.asarray(labels), classes=(1, 5))


def test_equally_hard_pixels_are_all_kept():
    """At first a network's logits may be all alike; mmsegmentation then keeps none and never learns."""
    labels = jnp.asarray(draw()[1])
    kept = jax.jit(hard_pixels)(jnp.full((B, H, W), np.log(K), jnp.float32), labels, threshold=0.1, min_kept=0.1)
    np.testing.assert_array_equal(kept, labels != 255)


def test_the_share_of_hard_pixels():
    """Among probabilities down to 1e-30, which no histogram would tell apart."""
    rng = np.random.default_rng(0)
    logits = np.zeros((1, 20, 50, 2), np.float32)
    logits[..., 0] = rng.uniform(-70, 70, (1, 20, 50))
    labels = np.where(rng.random((1, 20, 50)) < 0.3, 255, 0)
    order = np.argsort(np.where(labels == 0, logits[..., 0], np.inf), axis=None)
    surprised = logits[..., 0].ravel() < 15  # beyond it a probability rounds to 1
    nll = -jax.nn.log_softmax(jnp.asarray(logits))[..., 0]
    find = jax.jit(hard_pixels)
    for share in (0.0, 0.02, 0.5, 1.0):
        kept = find(nll, jnp.asarray(labels), threshold=0.0, min_kept=share)
        expected = np.zeros(1000, bool)
        expected[order[: round(share * (labels == 0).sum())]] = True
        np.testing.assert_array_equal(np.asarray(kept).ravel()[surprised], expected[surprised])


def test_boundaries_are_learned():
    """Steps along the sign of the gradient, from logits that know nothing."""
    labels = jnp.asarray(draw()[1])
    logits = 0.1 * np.random.default_rng(0).standard_normal((B, H, W, K)).astype(np.float32)
    means = []
    for _ in range(40):
        mean, gradient = evaluate()(jnp.asarray(logits), labels)["boundary"]
        means.append(float(mean))
        logits = logits - 0.3 * np.sign(gradient)
    assert means[-1] < 0.1 < 0.3 < means[0]


def test_a_large_image_loses_no_digits():
    """Half a million pixels: as differences of float32 Jaccard losses, two digits of the gradient would be left."""
    h, w = 600, 800
    rng = np.random.default_rng(0)
    labels = (rng.random((1, h, w)) < 0.7).astype(np.int32)
    logits = rng.standard_normal((1, h, w, 2)).astype(np.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda z: losses.lovasz(z, jnp.asarray(labels))[0]))(logits)

    p = 1 / (1 + np.exp(np.diff(logits.astype(np.float64))[..., 0]))  # of the first class
    own = labels.ravel() == 0
    errors = np.where(own, 1 - p.ravel(), p.ravel())  # in both classes
    order = np.argsort(-errors)
    slopes = 0.0
    for truth in (own[order], ~own[order]):
        jaccard = 1 - (truth.sum() - truth.cumsum()) / (truth.sum() + (~truth).cumsum())
        slopes = slopes + np.diff(jaccard, prepend=0) / 2
    np.testing.assert_allclose(value, (errors[order] * slopes).sum(), rtol=1e-5)
    expected = slopes[np.argsort(order)] * np.where(own, -1, 1) * (p * (1 - p)).ravel()
    np.testing.assert_allclose(gradient[..., 0].ravel(), expected, rtol=1e-4)

    value = losses.mean(*jax.jit(losses.jaccard)(logits, jnp.asarray(labels)))
    p, own = p.ravel(), own.astype(float)
    scores = [(q * t).sum() / (q + t - q * t).sum() for q, t in ((p, own), (1 - p, 1 - own))]
    np.testing.assert_allclose(value, 1 - np.mean(scores), rtol=1e-5)
