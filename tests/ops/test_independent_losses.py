"""Losses of classes that may overlap, and of a single sigmoid output, against their definitions in float64."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.ops import losses
from attnseg_jax.ops.losses import mean
from attnseg_jax.ops.metrics import as_pair

B, H, W, K = 2, 4, 5, 3
WEIGHTS, ONES = np.array([0.5, 4.0, 2.0]), np.ones(3)


def draw():
    """Logits and labels of which more are ignored in one class than in another; the last class is never there."""
    rng = np.random.default_rng(5)
    labels = (rng.random((B, H, W, K)) < np.array([0.5, 0.3, 0.0])).astype(np.int32)
    labels[rng.random(labels.shape) < np.array([0.4, 0.1, 0.2])] = 255
    return (2 * rng.standard_normal((B, H, W, K))).astype(np.float32), labels


LOGITS, LABELS = draw()


def pixels(k):
    """Probability and label of class k where the label is known."""
    p = 1 / (1 + np.exp(-LOGITS[..., k].astype(np.float64)))
    return [(p[at], LABELS[(*at, k)]) for at in np.ndindex(p.shape) if LABELS[(*at, k)] != 255]


def cross_entropy(weights=ONES, smoothing=0.0):
    total = count = 0.0
    for k in range(K):
        for p, y in pixels(k):
            target = (1 - smoothing) * y + smoothing / 2
            total -= weights[k] * target * np.log(p) + (1 - target) * np.log(1 - p)
            count += weights[k] if y else 1
    return total / count


def ohem(threshold=0.7, min_kept=0.1):
    nll = sorted(-np.log(p if y else 1 - p) for k in range(K) for p, y in pixels(k))[::-1]
    kept = [x for i, x in enumerate(nll) if x > -np.log(threshold) or i < round(min_kept * len(nll))]
    return np.mean(kept)


def overlap(alpha, beta, smooth=0.0):
    total = 0.0
    for k in range(K):
        hit = sum(p * y for p, y in pixels(k))
        false_alarm, miss = sum(p * (1 - y) for p, y in pixels(k)), sum((1 - p) * y for p, y in pixels(k))
        if any(y for _, y in pixels(k)):
            total += 1 - (hit + smooth) / (hit + alpha * false_alarm + beta * miss + smooth)
    return total / K


def focal(alpha=0.25, gamma=2.0, weights=ONES):
    total = count = 0.0
    for k in range(K):
        for p, y in pixels(k):
            q, share = (p, alpha) if y else (1 - p, 1 - alpha)
            total -= weights[k] * share * (1 - q) ** gamma * np.log(q)
        count += weights[k] * len(pixels(k))
    return total / count


CASES = {
    "cross_entropy": (losses.cross_entropy, {}, cross_entropy()),
    "weighted": (
        losses.cross_entropy,
        {"class_weights": jnp.float32(WEIGHTS), "label_smoothing": 0.1},
        cross_entropy(WEIGHTS, 0.1),
    ),
    "ohem": (losses.ohem, {}, ohem()),
    "focal": (losses.focal, {"alpha": 0.25}, focal()),
    "focal_weighted": (
        losses.focal,
        {"alpha": 0.25, "class_weights": jnp.float32(WEIGHTS)},
        focal(weights=WEIGHTS),
    ),
    "dice": (losses.dice, {"smooth": 0.5}, overlap(0.5, 0.5, 0.5)),
    "jaccard": (losses.jaccard, {}, overlap(1.0, 1.0)),
    "tversky": (losses.tversky, {}, overlap(0.3, 0.7)),
}


def test_they_are_their_definitions_on_any_number_of_devices():
    """One program; the second time each image is a device's, and sums and counts are added."""

    @jax.jit
    def values(logits, labels):
        found = {}
        for name, (loss, options, _) in CASES.items():
            found[name] = mean(*loss(logits, labels, **options))
            known = {"axis_name": "data"} if loss not in (losses.cross_entropy,) else {}
            of_device = jax.vmap(partial(loss, **options, **known), axis_name="data")
            sums, counts = of_device(logits[:, None], labels[:, None])
            found[f"{name} of devices"] = mean(sums.sum(), counts.sum())
        return found

    found = values(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    for name, (*_, expected) in CASES.items():
        np.testing.assert_allclose([found[name], found[f"{name} of devices"]], expected, rtol=2e-5, err_msg=name)


def test_one_output_is_two_classes_whose_first_logit_is_0():
    """Of the softmax losses those that weigh or choose classes, so that the first can be left out."""
    z, y = jnp.asarray(LOGITS[..., :1]), jnp.asarray(LABELS[..., 0])
    two = {"class_weights": jnp.array([1.0, 3.0])}
    pairs = [
        (
            losses.cross_entropy,
            {"class_weights": jnp.array([3.0]), "label_smoothing": 0.1},
            {**two, "label_smoothing": 0.1},
        ),
        (losses.dice, {}, {"classes": (1,)}),
        (losses.focal, {}, {"class_weights": jnp.array([0.0, 1.0])}),
    ]

    @jax.jit
    def values(z, y):
        one = [mean(*loss(z, y, **options)) for loss, options, _ in pairs]
        with_axis = [mean(*loss(z, y[..., None], **options)) for loss, options, _ in pairs]
        return one, with_axis, [mean(*loss(as_pair(z[..., 0]), y, **options)) for loss, _, options in pairs]

    one, with_axis, as_two = values(z, y)
    np.testing.assert_allclose(one, as_two, rtol=1e-5)
    np.testing.assert_array_equal(one, with_axis)


@pytest.mark.thorough
def test_ignored_labels_have_no_gradient_and_wrong_ones_make_nan():
    """Even where the logit of an ignored label is infinite, beside another class's that counts."""
    at = tuple(np.argwhere(LABELS == 255)[0])
    logits = jnp.asarray(LOGITS).at[at].set(jnp.inf)

    def total(logits, labels):
        parts = [loss(logits, labels, **options)[0] for loss, options, _ in CASES.values()]
        return sum([*parts, losses.boundary(logits, labels)[0], losses.lovasz(logits, labels)[0]])

    gradient, wrong = jax.jit(lambda z, y, bad: (jax.grad(total)(z, y), total(z, bad)))(
        logits, jnp.asarray(LABELS), jnp.asarray(LABELS).at[0, 0, 0, 0].set(2)
    )
    assert np.isfinite(gradient).all() and not gradient[jnp.asarray(LABELS) == 255].any()
    assert gradient[jnp.asarray(LABELS) != 255].any() and np.isnan(wrong)


def test_presence_of_classes_counts_the_images_by_their_labels():
    logits = jnp.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
    there = [[(LABELS[b, ..., k] == 1).any() for k in range(K)] for b in range(B)]
    terms = itertools.product(range(B), range(K))
    each = {(b, k): np.log1p(np.exp(-logits[b, k] if there[b][k] else logits[b, k])) for b, k in terms}
    expected = sum(np.mean([each[b, k] for k in range(K)]) * (LABELS[b] != 255).sum() for b in range(B))
    np.testing.assert_allclose(losses.presence_cross_entropy(logits, jnp.asarray(LABELS)), expected, rtol=1e-5)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS[..., :2]))
