"""The train step with other losses than cross-entropy, and with sums of them; one device and eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import CLASSES, Tiny, largest_difference, optimizer_config, setup

from attnseg_jax.ops import losses
from attnseg_jax.train.losses import LOSSES
from attnseg_jax.train.parallel import make_parallel

WEIGHTS = np.linspace(0.5, 2.0, CLASSES).astype(np.float32)
PLAIN_SGD = optimizer_config(momentum=0.0, weight_decay=0.0, schedule="constant")
OPTIONS = {
    "loss_options": {"ohem": {"min_kept": 0.3, "threshold": 0.2}, "focal": {"normalized": True}},
    "class_weights": WEIGHTS,
    "label_smoothing": 0.1,
    "aux_weight": 0.3,
}
# One of each kind: a sum over images, a choice among pixels, a ratio of sums.
KINDS = "lovasz+ohem+dice"


def plain(loss, **options):
    return setup(Tiny("none"), PLAIN_SGD, loss=loss, **options)


@functools.cache
def run(loss, mode, count, accumulate=1):
    """(parameters, metrics of all steps) after two steps on batches of 16, with ever fewer ignored pixels."""
    scales = tuple(0.5 + 0.25 * i for i in range(len(loss.split("+"))))
    state, train_step, eval_step = setup(Tiny(), accumulate=accumulate, loss=loss, loss_scales=scales, **OPTIONS)
    parallel = make_parallel(mode, train_step, eval_step, jax.devices()[:count])
    state, metrics = parallel.put_state(state), []
    for i in range(2):
        batch = tiny.batch(i)
        batch["label"][:3] = 255
        batch["valid"][-2] = False
        state, found = parallel.train(state, parallel.shard_batch(batch))
        metrics.append({name: np.asarray(value) for name, value in found.items()})
    return jax.tree.map(np.asarray, state.params), metrics


def assert_same(one, other):
    assert largest_difference(one[0], other[0]) <= 1e-6
    for a, b in zip(one[1], other[1]):
        assert a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_allclose(b[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["pmap", pytest.param("mesh", marks=pytest.mark.slow)])
def test_eight_devices_equal_one(mode):
    """With a device that has no valid pixel at all."""
    one = run(KINDS, "mesh", 1)
    assert_same(one, run(KINDS, mode, 8))
    assert {f"loss_{name}" for name in KINDS.split("+")} < one[1][0].keys()


@pytest.mark.slow
@pytest.mark.parametrize("mode, count, accumulate", [("pmap", 8, 1), ("mesh", 8, 1), ("pmap", 4, 2)])
def test_all_losses_on_many_devices(mode, count, accumulate):
    loss = "+".join(LOSSES)
    assert_same(run(loss, "mesh", 1, accumulate), run(loss, mode, count, accumulate))


apply = jax.jit(lambda params, image: Tiny("none").apply({"params": params}, image))


def by_hand(state, batch, name, **options):
    """The mean of one loss of (the logits, the auxiliary output)."""
    label = np.where(batch["valid"][:, None, None], batch["label"], 255)
    out = apply(state.params, batch["image"])
    value = jax.jit(lambda z: losses.mean(*LOSSES[name](z, jnp.asarray(label), **options)))
    return [float(value(logits)) for logits in (out.logits, out.aux["stem"])]


def test_a_sum_by_hand():
    state, step, _ = plain(
        "lovasz+cross_entropy+dice",
        loss_scales=(0.5, 2.0, 0.25),
        loss_options={"dice": {"smooth": 3.0}},
        class_weights=WEIGHTS,
        aux_weight=0.3,
    )
    batch = tiny.batch(size=4)
    batch["valid"][1] = False
    _, metrics = step(state, batch)
    parts = {
        "lovasz": by_hand(state, batch, "lovasz"),
        "cross_entropy": by_hand(state, batch, "cross_entropy", class_weights=jnp.asarray(WEIGHTS)),
        "dice": by_hand(state, batch, "dice", smooth=3.0),
    }
    for name, (main, _) in parts.items():
        assert float(metrics[f"loss_{name}"]) == pytest.approx(main, rel=1e-5)
    main, aux = (0.5 * parts["lovasz"][i] + 2 * parts["cross_entropy"][i] + 0.25 * parts["dice"][i] for i in range(2))
    assert float(metrics["aux_stem"]) == pytest.approx(aux, rel=1e-5)
    assert float(metrics["loss"]) == pytest.approx(main + 0.3 * aux, rel=1e-5)


@pytest.mark.parametrize("name", ["lovasz", "dice"])
def test_the_update_is_the_gradient_of_the_loss(name):
    state, step, _ = plain(name, aux_weight=0.3)
    batch = tiny.batch(size=4)
    new, metrics = step(state, batch)
    assert f"loss_{name}" not in metrics

    def objective(params):
        out = Tiny("none").apply({"params": params}, batch["image"])
        main, aux = (losses.mean(*LOSSES[name](z, jnp.asarray(batch["label"]))) for z in (out.logits, out.aux["stem"]))
        return main + 0.3 * aux

    grads = jax.jit(jax.grad(objective))(state.params)
    assert largest_difference(grads, jax.tree.map(jnp.zeros_like, grads)) > 1e-3
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    assert largest_difference(new.params, expected) < 1e-6


@pytest.mark.thorough
def test_sums_over_pixels_or_images_do_not_depend_on_microbatches():
    batch, results = tiny.batch(size=4), []
    batch["label"][2] = 255
    for accumulate in (1, 4):
        state, step, _ = plain("cross_entropy+lovasz+focal", accumulate=accumulate, class_weights=WEIGHTS)
        results.append(step(state, batch))
    assert largest_difference(results[0][0].params, results[1][0].params) < 1e-6
    for name, value in results[0][1].items():
        np.testing.assert_allclose(results[1][1][name], value, rtol=2e-5, err_msg=name)


def test_a_ratio_is_that_of_the_microbatch_which_counts_by_its_pixels():
    batch = tiny.batch(size=4)
    state, step, _ = plain("dice", accumulate=2, aux_weight=0.0)
    _, metrics = step(state, batch)
    total = pixels = 0.0
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        part = {name: value[rows] for name, value in batch.items()}
        valid = (part["label"] != 255).sum()
        total, pixels = total + valid * by_hand(state, part, "dice")[0], pixels + valid
    assert float(metrics["loss"]) == pytest.approx(total / pixels, rel=1e-5)


def test_no_valid_pixel_changes_nothing():
    state, step, _ = plain(KINDS, **OPTIONS)
    batch = tiny.batch(size=4)
    batch["label"][:] = 255
    new, metrics = step(state, batch)
    assert float(metrics["loss"]) == 0 and float(metrics["grad_norm"]) == 0
    assert largest_difference(new.params, state.params) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))


def test_pixels_without_weight_leave_the_other_losses():
    """The first loss has nothing to divide by."""
    state, step, _ = plain("cross_entropy+dice", class_weights=np.zeros(CLASSES, np.float32), aux_weight=0.0)
    batch = tiny.batch(size=4)
    _, metrics = step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(by_hand(state, batch, "dice")[0], rel=1e-5)
    assert float(metrics["loss_cross_entropy"]) == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_whose_weights_sum_to_zero_has_loss_zero(accumulate):
    """Label smoothing gives its pixels a part of the other classes' loss, and there is nothing to divide that by."""
    weights = np.where(np.arange(CLASSES) == 3, 0.0, WEIGHTS).astype(np.float32)
    model = Tiny("none", presence=True)
    loss = "cross_entropy+ohem"
    state, step, _ = setup(
        model, PLAIN_SGD, loss=loss, accumulate=accumulate, class_weights=weights, label_smoothing=0.1
    )
    batch = tiny.batch(size=4)
    batch["label"][batch["label"] != 255] = 3
    new, metrics = step(state, batch)
    assert {name: float(metrics[name]) for name in metrics if "loss" in name or name in ("aux_stem", "grad_norm")} == {
        "loss": 0, "loss_cross_entropy": 0, "loss_ohem": 0, "aux_stem": 0, "grad_norm": 0
    }  # fmt: skip
    assert float(metrics["presence_shown"]) == 0 and largest_difference(new.params, state.params) == 0


def test_labels_that_are_no_class_are_noticed_though_they_have_no_weight():
    state, step, _ = plain("cross_entropy", class_weights=WEIGHTS, aux_weight=0.0)
    batch = tiny.batch(size=4)
    batch["label"][:] = CLASSES + 3
    assert np.isnan(step(state, batch)[1]["loss"])


def test_presence_is_divided_by_its_own_count():
    model = Tiny("none", presence=True)
    found = []
    for loss in ("cross_entropy", "lovasz"):
        state, step, _ = setup(model, PLAIN_SGD, loss=loss, class_weights=WEIGHTS, aux_weight=0.0)
        found.append(float(step(state, tiny.batch(size=4))[1]["presence_shown"]))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
