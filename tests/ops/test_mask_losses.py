"""Losses of matched masks: the originals' costs, choices of points, losses and gradients; what is left out of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden

from attnseg_jax.ops.losses import (
    class_loss,
    mask_losses,
    matching_costs,
    mean,
    segment_count,
    segments,
    uncertain_points,
)
from attnseg_jax.ops.points import class_shares, labelled_shares, sample
from attnseg_jax.ops.resize import resize

load = functools.cache(Golden)
CLASSES = 7
RNG = np.random.default_rng(0)


def matchings(case, classes):
    """The original's matching `[b, n]`, and of its pairs, in its order, the places in `[b, n]`."""
    b = len(classes)
    found, places = np.full(classes.shape, case.inputs()["class_logits"].shape[1], np.int32), []
    for i in range(b):
        names = case.expected(f"target/classes_{i}")
        assert sorted(names) == sorted(c for c in classes[i] if c >= 0)
        for query, target in zip(case.expected(f"match/pred_{i}"), case.expected(f"match/target_{i}"), strict=True):
            place = list(classes[i]).index(names[target])
            found[i, place] = query
            places.append((i, place))
    return jnp.asarray(found), tuple(np.array(places).T)


def spread(points, places, shape):
    """Points of the original's pairs `[pairs, p, 2]` -> of all segments `[b, n, p, 2]`."""
    result = np.zeros((*shape, *points.shape[1:]), np.float32)
    result[places] = points
    return jnp.asarray(result)


def check(case, function, logits, masks):
    """Terms, total and gradients of `function(class_logits, mask_logits) -> (total, terms)`."""
    run = jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))
    (total, terms), (of_classes, of_masks) = run(logits, masks)
    for name, value in terms.items():
        assert_golden(case, name, value)
    assert_golden(case, "total", total)
    assert_golden(case, "grad/class_logits", of_classes)
    assert_golden(case, "grad/mask_logits", of_masks)


def check_costs(case, costs, classes):
    for i in range(len(classes)):
        order = [list(classes[i]).index(c) for c in case.expected(f"target/classes_{i}")]
        assert_golden(case, f"cost_{i}", np.asarray(costs)[i][:, order])


def picked(masks, matching):
    return jax.vmap(lambda m, i: m.at[i].get(mode="clip"))(masks, matching)


@pytest.mark.thorough
@pytest.mark.parametrize("name, count", [("loss_eomt", 0), ("loss_mask2former", 5)])
def test_points_of_the_originals(name, count):
    """Ignored pixels are in no mask, but the originals sample them like all others."""
    case = load(name)
    given = {key: jnp.asarray(value) for key, value in case.inputs().items()}
    labels, logits, masks = given["semantic"], given["class_logits"], given["mask_logits"]
    classes = segments(labels, CLASSES, count)
    points = given["points/match"][:, None]
    costs = matching_costs(
        logits, sample(masks, points), classes, class_shares(labels, classes, points),
        class_weight=2.0, mask_weight=5.0, dice_weight=5.0,
    )  # fmt: skip
    check_costs(case, costs, np.asarray(classes))
    matching, places = matchings(case, np.asarray(classes))
    candidates, rest = (spread(given[f"points/{key}"], places, classes.shape) for key in ("over", "random"))
    wanted = case.expected("sampled").shape[1] - rest.shape[2]

    def function(logits, masks):
        pairs = picked(masks, matching)
        points = jnp.concatenate([uncertain_points(candidates, sample(pairs, candidates), wanted), rest], axis=2)
        terms = mask_losses(sample(pairs, points), class_shares(labels, classes, points), matching < logits.shape[1])
        of_mask, of_dice = (mean(term, segment_count(classes)) for term in terms)
        of_class = mean(*class_loss(logits, classes, matching, no_object=0.1))
        terms = {"loss_mask": of_mask, "loss_dice": of_dice, "loss_cross_entropy": of_class, "sampled": points[places]}
        return 2 * of_class + 5 * of_mask + 5 * of_dice, terms

    check(case, function, logits, masks)


@pytest.mark.thorough
def test_whole_masks_of_maskformer():
    """Every pixel is a point: matched at the size of the masks, compared at that of the labels; focal."""
    case = load("loss_maskformer")
    given = {key: jnp.asarray(value) for key, value in case.inputs().items()}
    labels, logits, masks = given["semantic"], given["class_logits"], given["mask_logits"]
    classes = segments(labels, CLASSES)

    def targets(labels):
        return (labels.reshape(len(labels), 1, -1) == classes[..., None]).astype(jnp.float32)

    small = resize(labels[..., None], masks.shape[2:], "nearest")[..., 0]
    values = masks.reshape(*masks.shape[:2], -1)
    weights = dict(class_weight=1.0, mask_weight=20.0, dice_weight=1.0)
    check_costs(case, matching_costs(logits, values, classes, targets(small), **weights, focal=True), classes)
    matching, _ = matchings(case, np.asarray(classes))

    def function(logits, masks):
        large = jnp.moveaxis(resize(jnp.moveaxis(masks, 1, 3), labels.shape[1:]), 3, 1)
        pairs = picked(large, matching).reshape(*matching.shape, -1)
        terms = mask_losses(pairs, targets(labels), matching < logits.shape[1], focal=True)
        of_mask, of_dice = (mean(term, segment_count(classes)) for term in terms)
        of_class = mean(*class_loss(logits, classes, matching, no_object=0.1))
        terms = {"loss_mask": of_mask, "loss_dice": of_dice, "loss_cross_entropy": of_class}
        return of_class + 20 * of_mask + of_dice, terms

    check(case, function, logits, masks)


@pytest.mark.thorough
def test_ignored_points_make_no_difference():
    """Neither to costs nor to losses, whatever their logits; nor to the choice while there are others."""
    labels = jnp.asarray(RNG.integers(0, CLASSES, (2, 9, 11))).at[:, :, 6:].set(255)
    classes, points = segments(labels, CLASSES), jnp.asarray(RNG.random((2, 1, 60, 2)), jnp.float32)
    logits = jnp.asarray(RNG.standard_normal((2, 9, CLASSES + 1)), jnp.float32)
    values = jnp.asarray(RNG.standard_normal((2, 9, 60)), jnp.float32)
    targets, weights = class_shares(labels, classes, points), labelled_shares(labels, points)
    inside = np.asarray(points[0, 0, :, 0]) < 5.5 / 11
    outside = np.asarray(points[0, 0, :, 0]) > 6.5 / 11
    np.testing.assert_allclose(weights[0, 0][inside], 1, atol=1e-6)
    np.testing.assert_allclose(weights[0, 0][outside], 0, atol=1e-6)
    options = dict(class_weight=2.0, mask_weight=5.0, dice_weight=5.0)
    matched = classes >= 0
    weights = jnp.where(weights < 1e-6, 0.0, weights)

    @jax.jit
    def run(values):
        costs = matching_costs(logits, values, classes, targets, weights, **options)
        pairs = values[:, :CLASSES]
        return costs, *mask_losses(pairs, targets, matched, weights), uncertain_points(points, pairs, 20, weights)

    for one, other in zip(run(values), run(jnp.where(weights > 0, values, 1e-6)), strict=True):
        np.testing.assert_array_equal(one, other)
    losses = mask_losses(values[:1, :CLASSES, inside], targets[:1, :, inside], matched[:1])
    for one, other in zip(losses, mask_losses(values[:1, :CLASSES], targets[:1], matched[:1], inside[None, None])):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_without_a_labelled_point_masks_cost_nothing():
    zeros = jnp.zeros((1, 1, 5))
    function = jax.value_and_grad(lambda x: mask_losses(x, zeros, jnp.ones((1, 1), bool), zeros)[0])
    value, gradient = function(jnp.full((1, 1, 5), jnp.inf))
    assert value == 0 and (gradient == 0).all()


def test_classes_by_hand():
    """Two queries and three segments: two are matched; an image that does not count; class weights."""
    logits = RNG.standard_normal((3, 2, 5)).astype(np.float32)
    classes = jnp.array([[0, 2, 3], [-1, 1, -1], [-1, -1, -1]])
    matching = jnp.array([[1, 2, 0], [2, 0, 2], [2, 2, 2]])
    weights = np.array([1.0, 2.0, 4.0, 3.0])
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    expected = -(log_p[0, 1, 0] + 3 * log_p[0, 0, 3] + 2 * log_p[1, 0, 1] + 0.1 * log_p[1, 1, 4])
    options = dict(no_object=0.1, class_weights=jnp.asarray(weights), images=jnp.array([True, True, False]))
    found, count = class_loss(jnp.asarray(logits).at[2].set(jnp.nan), classes, matching, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(count, 2 * (1 + 4 + 3) / 3 + 2 + 0.1, rtol=1e-6)
    found, count = class_loss(jnp.asarray(logits), classes, matching, no_object=0.1)
    expected = -(log_p[0, 1, 0] + log_p[0, 0, 3] + log_p[1, 0, 1] + 0.1 * (log_p[1, 1, 4] + log_p[2, :, 4].sum()))
    np.testing.assert_allclose((found, count), (expected, 3 + 0.3), rtol=1e-6)
