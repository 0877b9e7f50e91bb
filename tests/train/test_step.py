"""The train step on one device, against sums written out in NumPy and a plain gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import CLASSES, Tiny, largest_difference, optimizer_config, setup

from attnseg_jax.errors import UserError
from attnseg_jax.train.state import eval_variables

PLAIN_SGD = optimizer_config(momentum=0.0, weight_decay=0.0, schedule="constant")


def plain(**options):
    """Without a norm and with plain SGD: what the step does can be written out."""
    return setup(Tiny("none"), PLAIN_SGD, aux_weight=0.3, **options)


apply = jax.jit(lambda params, image: Tiny("none").apply({"params": params}, image))


def oracle_sum(logits, label, weights=None):
    """(sum, count) of the cross-entropy in float64, pixel by pixel."""
    logits = np.asarray(logits, np.float64)
    total = count = 0.0
    for position in np.argwhere(label != 255):
        scores, truth = logits[tuple(position)], label[tuple(position)]
        weight = 1.0 if weights is None else weights[truth]
        total += weight * (np.log(np.exp(scores).sum()) - scores[truth])
        count += weight
    return total, count


@pytest.mark.parametrize("weighted", [False, True])
def test_losses_and_confusion_by_hand(weighted):
    weights = np.linspace(0.5, 2.0, CLASSES).astype(np.float32) if weighted else None
    state, step, _ = plain(class_weights=weights)
    batch = tiny.batch(size=4)
    batch["valid"][1] = False
    _, metrics = step(state, batch)

    out = apply(state.params, batch["image"])
    label = batch["label"].copy()
    label[1] = 255
    main, count = oracle_sum(out.logits, label, weights)
    aux, _ = oracle_sum(out.aux["stem"], label, weights)
    assert float(metrics["loss"]) == pytest.approx((main + 0.3 * aux) / count, rel=1e-5)
    assert float(metrics["aux_stem"]) == pytest.approx(aux / count, rel=1e-5)
    confusion = np.zeros((CLASSES, CLASSES), int)
    seen = label != 255
    np.add.at(confusion, (label[seen], np.argmax(out.logits, -1)[seen]), 1)
    np.testing.assert_array_equal(metrics["confusion"], confusion)
    assert metrics["confusion"].dtype == jnp.int32
    assert float(metrics["learning_rate"]) == pytest.approx(0.1)


def test_a_frozen_part_has_no_gradient_and_the_others_keep_theirs():
    batch = tiny.batch(size=4)
    state, step, _ = plain()
    free, metrics = step(state, batch)
    frozen = frozenset(f"{part}/{name}" for part in ("stem", "aux") for name in ("kernel", "bias"))
    _, step, _ = plain(frozen=frozen)
    found, frozen_metrics = step(state, batch)
    for part in ("stem", "aux"):
        assert largest_difference(found.params[part], state.params[part]) == 0
    assert largest_difference(found.params["head"], free.params["head"]) < 1e-7
    # Plain SGD of rate 0.1: the step is a tenth of the gradient.
    moved = jax.tree.map(lambda new, old: (new - old) / 0.1, found.params["head"], state.params["head"])
    norm = np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in jax.tree.leaves(moved)))
    assert float(frozen_metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    assert float(metrics["grad_norm"]) > 1.1 * norm


def test_presence_counts_an_image_by_its_valid_pixels():
    weights = np.linspace(0.5, 2.0, CLASSES).astype(np.float32)
    model = Tiny("none", presence=True)
    state, step, _ = setup(model, PLAIN_SGD, class_weights=weights, aux_weight=0.0, presence_weight=0.7)
    batch = tiny.batch(size=4)
    batch["valid"][1] = False
    _, metrics = step(state, batch)
    out = jax.jit(model.apply)({"params": state.params}, batch["image"])
    total = count = 0.0
    for i in (0, 2, 3):
        label = batch["label"][i][batch["label"][i] != 255]
        share = weights[label].sum()
        p = 1 / (1 + np.exp(-np.asarray(out.presence["shown"][i], np.float64)))
        shown = np.isin(np.arange(CLASSES), label)
        total += share * np.mean([-np.log(q if s else 1 - q) for q, s in zip(p, shown)])
        count += share
    assert float(metrics["presence_shown"]) == pytest.approx(total / count, rel=1e-5)
    batch["label"][batch["valid"] == 0] = 255
    main, _ = oracle_sum(out.logits, batch["label"], weights)
    assert float(metrics["loss"]) == pytest.approx((main + 0.7 * total) / count, rel=1e-5)


def test_update_is_the_gradient_of_the_mean():
    state, step, _ = plain()
    batch = tiny.batch(size=4)
    new, metrics = step(state, batch)

    def mean(params):
        out = apply(params, batch["image"])
        seen = batch["label"] != 255
        truth = np.where(seen, batch["label"], 0)[..., None]

        def of(logits):
            return -(jnp.take_along_axis(jax.nn.log_softmax(logits), truth, -1)[..., 0] * seen).sum() / seen.sum()

        return of(out.logits) + 0.3 * of(out.aux["stem"])

    grads = jax.jit(jax.grad(mean))(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    assert largest_difference(new.params, expected) < 1e-6
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in jax.tree.leaves(grads)))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert int(new.step) == 1


def test_no_valid_pixel_changes_nothing():
    state, step, _ = plain()
    batch = tiny.batch(size=4)
    batch["label"][:] = 255
    new, metrics = step(state, batch)
    assert float(metrics["loss"]) == 0 and float(metrics["grad_norm"]) == 0
    assert largest_difference(new.params, state.params) == 0
    assert int(metrics["confusion"].sum()) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((new.params, new.opt_state, metrics)))


def test_padding_rows_do_not_count_whatever_they_hold():
    state, step, evaluate = plain()
    evaluate = jax.jit(evaluate)
    batch = tiny.batch(size=4)
    padded = {name: np.concatenate([rows, rows[:2]]) for name, rows in batch.items()}
    padded["valid"][4:] = False
    (a, short), (b, long) = step(state, batch), step(state, padded)
    assert largest_difference(a.params, b.params) < 1e-7
    np.testing.assert_array_equal(short["confusion"], long["confusion"])
    counts, rows = evaluate(eval_variables(state), padded)
    unpadded = evaluate(eval_variables(state), batch)[0]
    np.testing.assert_array_equal(counts["confusion"], unpadded["confusion"])
    assert float(counts["cross_entropy"]) == pytest.approx(float(unpadded["cross_entropy"]), rel=1e-6)
    assert rows["prediction"].dtype == jnp.uint8 and rows["prediction"].shape == (6, *tiny.SIZE)
    # One pixel of row 2, and a row of padding.
    padded["image"][2, 4, 3, 1] = padded["image"][5, 0, 0, 0] = np.nan
    counts, rows = evaluate(eval_variables(state), padded)
    assert counts["not_finite"] == 1
    assert rows["finite"].tolist() == [True, True, False, True, True, True]


def test_accumulated_microbatches_equal_one_batch():
    batch = tiny.batch(size=4)
    results = []
    for accumulate in (1, 4):
        state, step, _ = plain(accumulate=accumulate)
        for _ in range(2):
            state, metrics = step(state, batch)
        results.append((state.params, metrics))
    assert largest_difference(results[0][0], results[1][0]) < 1e-6
    assert float(results[0][1]["loss"]) == pytest.approx(float(results[1][1]["loss"]), rel=1e-6)
    np.testing.assert_array_equal(results[0][1]["confusion"], results[1][1]["confusion"])


def test_accumulation_hands_batch_statistics_on():
    batch = tiny.batch(size=4)
    state, step, _ = setup(Tiny(), accumulate=2)
    new, _ = step(state, batch)
    zero_rate = optimizer_config(momentum=0.0, weight_decay=0.0, schedule="constant", learning_rate=0.0)
    expected, single, _ = setup(Tiny(), zero_rate)
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        expected, _ = single(expected, {name: x[rows] for name, x in batch.items()})
    assert largest_difference(new.batch_stats, expected.batch_stats) < 1e-6
    assert largest_difference(new.batch_stats, state.batch_stats) > 1e-3


def test_statistics_that_follow_a_schedule():
    """They are those of the steps that are done, micro-batches or not; the others stay what the model made of them."""

    def scheduled(statistics, step):
        return {**statistics, "norm": {**statistics["norm"], "mean": jnp.full(5, step / 10)}}

    state, step, _ = setup(accumulate=2, scheduled=scheduled)
    plain_state, plain_step, _ = setup(accumulate=2)
    for count in (1, 2):
        state, _ = step(state, tiny.batch(count))
        plain_state, _ = plain_step(plain_state, tiny.batch(count))
        np.testing.assert_allclose(state.batch_stats["norm"]["mean"], count / 10, rtol=1e-6)
    np.testing.assert_array_equal(state.batch_stats["norm"]["var"], plain_state.batch_stats["norm"]["var"])
    assert largest_difference(state.params, plain_state.params) == 0


def test_average_of_parameters_by_hand():
    state, step, _ = setup(Tiny(), ema_decay=0.75)
    batch = tiny.batch(size=4)
    first, _ = step(state, batch)
    second, _ = step(first, batch)
    # decays of the warm-up at the steps 0 and 1: (1 + t) / (10 + t)
    expected = jax.tree.map(
        lambda a, b, c: 2 / 11 * (0.1 * np.asarray(a) + 0.9 * np.asarray(b)) + 9 / 11 * np.asarray(c),
        state.params,
        first.params,
        second.params,
    )
    assert largest_difference(second.ema, expected) < 1e-7
    late, _ = step(second.replace(step=jnp.asarray(1000, jnp.int32)), batch)
    expected = jax.tree.map(lambda a, b: 0.75 * np.asarray(a) + 0.25 * np.asarray(b), second.ema, late.params)
    assert largest_difference(late.ema, expected) < 1e-7
    assert eval_variables(second)["params"] is second.ema
    assert setup(Tiny())[0].ema is None


def test_dropout_changes_from_step_to_step_and_repeats_with_the_key():
    state, step, _ = setup(Tiny("none", dropout=0.5), PLAIN_SGD)
    batch = tiny.batch(size=4)
    loss = float(step(state, batch)[1]["loss"])
    assert float(step(state, batch)[1]["loss"]) == loss
    assert float(step(state.replace(step=state.step + 1), batch)[1]["loss"]) != loss
    assert float(step(state.replace(key=jax.random.key(5)), batch)[1]["loss"]) != loss


def test_learns():
    state, step, _ = setup()
    batch, losses = tiny.batch(size=4), []
    for _ in range(10):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_unknown_loss():
    with pytest.raises(UserError, match=r"config\.loss\.name='cross_entropi'.*did you mean 'cross_entropy'"):
        setup(loss="cross_entropi")
