"""Objectives, losses and hooks from outside of the package, and the fields of a batch that they declare."""

import functools
from typing import ClassVar

import jax
import numpy as np
import pytest
import tiny
import toy_training
from ml_collections import ConfigDict
from tiny import CLASSES, Tiny, largest_difference, optimizer_config
from workdirs import lines

from attnseg_jax.errors import UserError
from attnseg_jax.ops.losses import pixel_count
from attnseg_jax.train import loop
from attnseg_jax.train.objective import Objective, Supervised, make_objective
from attnseg_jax.train.optimizer import make_optimizer
from attnseg_jax.train.parallel import make_parallel
from attnseg_jax.train.setup import make_run
from attnseg_jax.train.state import create_state, eval_variables
from attnseg_jax.train.step import eval_step, train_step

PLAIN_SGD = optimizer_config(momentum=0.0, weight_decay=0.0, schedule="constant")


def views(seed):
    """A batch of eight pictures in two views, some of them without labels."""
    batch, rng = tiny.batch(seed, size=8), np.random.default_rng(seed)
    config = ConfigDict({"custom": {"noise": 0.5}})
    rows = [toy_training.second_view({name: x[i] for name, x in batch.items()}, rng, config) for i in range(8)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def setup(objective, mode, count, model=None, accumulate=1, ema=0.0, **options):
    """(state on the devices, Parallel) of the tiny model."""
    model = model or Tiny()
    rule, schedule = make_optimizer(PLAIN_SGD, 10)
    state = create_state(model, rule, jax.random.key(0), tiny.IMAGE, ema=ema > 0)
    step = functools.partial(
        train_step, model=model, optimizer=rule, objective=objective, schedule=schedule, accumulate=accumulate,
        ema_decay=ema,
    )  # fmt: skip
    evaluate = functools.partial(eval_step, model=model, num_classes=CLASSES)
    fields = {"image": 0, "valid": False, **objective.fields}
    parallel = make_parallel(mode, step, evaluate, jax.devices()[:count], fields=fields, **options)
    return parallel.put_state(state), parallel


def train(objective, mode, count, steps=2, **options):
    state, parallel = setup(objective, mode, count, **options)
    metrics = []
    for i in range(steps):
        state, found = parallel.train(state, parallel.shard_batch(views(i)))
        metrics.append(jax.device_get(found))
    return state, metrics


@functools.cache
def one_device():
    return train(toy_training.TwoViews(CLASSES, weight=0.5), "mesh", 1)


def test_two_views_by_hand():
    """The loss is that of the labelled half and of all pairs of views; both passes hand their statistics on."""
    state, metrics = one_device()
    start, _ = setup(toy_training.TwoViews(CLASSES), "mesh", 1)
    batch, variables, logits = views(0), eval_variables(start), []
    for image in (batch["image"], batch["image2"]):
        out, updated = jax.jit(functools.partial(Tiny().apply, train=True, mutable=["batch_stats"]))(variables, image)
        logits.append(np.asarray(out.logits, np.float64))
        variables = {**variables, **updated}
    consistency = np.square(logits[0] - logits[1]).mean()
    valid = batch["label"] != 255
    assert 0 < valid.any((1, 2)).sum() < 8
    shifted = logits[0] - logits[0].max(-1, keepdims=True)
    chosen = (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))[valid]
    main = -np.take_along_axis(chosen, batch["label"][valid][:, None], -1).mean()
    first = metrics[0]
    assert float(first["consistency"]) == pytest.approx(consistency, rel=1e-5)
    assert float(first["loss"]) == pytest.approx(main + 0.4 * first["aux_stem"] + 0.5 * consistency, rel=1e-5)
    assert largest_difference(state.params, start.params) > 1e-3


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_two_views_on_eight_devices(mode):
    (one, expected), (eight, found) = one_device(), train(toy_training.TwoViews(CLASSES, weight=0.5), mode, 8)
    assert largest_difference((one.params, one.batch_stats), (eight.params, eight.batch_stats)) <= 1e-6
    for name, value in expected[-1].items():
        np.testing.assert_allclose(found[-1][name], value, rtol=2e-5, err_msg=name)


def test_two_views_in_microbatches():
    whole, micro = (
        train(toy_training.TwoViews(CLASSES), "mesh", 1, steps=1, model=Tiny("none"), accumulate=n) for n in (1, 4)
    )
    assert largest_difference(whole[0].params, micro[0].params) < 1e-6
    for name, value in whole[1][0].items():
        np.testing.assert_allclose(micro[1][0][name], value, rtol=2e-5, err_msg=name)


def test_a_teacher_is_the_average_of_the_parameters():
    state, metrics = train(toy_training.Teacher(CLASSES), "mesh", 1, model=Tiny("none"), ema=0.9)
    start, _ = setup(toy_training.Teacher(CLASSES), "mesh", 1, model=Tiny("none"), ema=0.9)
    batch = views(0)
    apply = jax.jit(lambda image: Tiny("none").apply({"params": start.ema}, image).logits)
    expected = np.square(np.asarray(apply(batch["image"])) - np.asarray(apply(batch["image2"]))).mean()
    assert float(metrics[0]["consistency"]) == pytest.approx(expected, rel=1e-5)
    assert largest_difference(state.params, state.ema) > 0


def test_counts_that_depend_on_the_output_cannot_be_accumulated():
    class Confident(Objective):
        fields: ClassVar = toy_training.TwoViews.fields

        def __call__(self, output, batch, *, axis_name=None):
            sure = output.logits.max(-1) > 0.1
            return {"loss": (sure * output.logits.max(-1)).sum()}, {"loss": sure.sum().astype(np.float32)}

    _, metrics = train(Confident(), "mesh", 1, steps=1, model=Tiny("none"))
    assert metrics[0]["loss"] > 0.1
    with pytest.raises(UserError, match=r"counts of Confident depend on the model's output.*accumulate=1"):
        train(Confident(), "mesh", 1, steps=1, model=Tiny("none"), accumulate=2)


def test_fields_of_a_batch():
    _, parallel = setup(toy_training.TwoViews(CLASSES), "mesh", 8)
    batch = views(0)
    # Rows that only fill up hold what the field declares.
    seven = parallel.shard_batch({name: x[:7] for name, x in batch.items()})
    assert {name: np.unique(np.asarray(x)[7]).tolist() for name, x in seven.items()} == {
        "image": [0], "image2": [0], "label": [255], "valid": [False],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"have the field 'depth', which neither the model nor the objective declares"):
        parallel.shard_batch({**batch, "depth": batch["label"]})
    del batch["image2"]
    with pytest.raises(UserError, match=r"have no field 'image2', which the model or the objective declares"):
        parallel.shard_batch(batch)
    # An evaluation needs no second view.
    confusion, _ = parallel.evaluate(eval_variables(setup(Supervised(CLASSES), "mesh", 8)[0]), batch)
    assert confusion.sum() == (batch["label"] != 255).sum()


@pytest.mark.thorough
def test_a_rule_splits_the_state():
    """Kernels lie in eighths on the devices, and so do their moments; the numbers are those of one device."""
    model = Tiny(width=8)
    expected, _ = train(toy_training.TwoViews(CLASSES), "mesh", 1, model=model)
    found, _ = train(toy_training.TwoViews(CLASSES), "mesh", 8, model=model, rule=toy_training.split_kernels)
    kernel = found.params["stem"]["kernel"]
    assert kernel.shape == (3, 3, 3, 8)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 3, 3, 1)}
    assert found.params["head"]["kernel"].is_fully_replicated
    assert largest_difference(found.params, expected.params) <= 1e-6
    with pytest.raises(UserError, match=r"config\.parallel='pmap' keeps the whole state.*config\.parallel='mesh'"):
        setup(Supervised(CLASSES), "pmap", 8, rule=toy_training.split_kernels)


@pytest.mark.thorough
def test_a_run_with_parts_from_outside(make_config, tmp_path):
    """All by name: a transform that adds a field, the objective that takes it, a loss, a hook and a sharding."""
    config = make_config(
        parallel="mesh",
        sharding="toy_training:split_kernels",
        hooks=("toy_training:Notes",),
        objective__name="toy_training:TwoViews",
        loss__name="cross_entropy+toy_training:squared_error",
        train__profile=(2,),
        train__accumulate=1,
        model__attention__name="none",
        train__steps=3,
        train__eval_every=3,
    )
    config.data.transforms += ("toy_training:second_view",)
    config.data.custom = {"noise": 0.5}
    config.objective.custom = {"weight": 0.25}
    config.loss.custom = {"power": 1.5}
    loop.run(config, tmp_path / "run")
    notes = (tmp_path / "run/notes.txt").read_text().splitlines()
    # A step's metrics are read when the next one is on its way.
    assert notes == [
        "before 1", "before 2", "step 1", "before 3", "step 2", "step 3", "save 3", "evaluation 3 3 2", "end", "close",
    ]  # fmt: skip
    last = [x for x in lines(tmp_path / "run") if "loss" in x][-1]
    assert {"loss_cross_entropy", "loss_squared_error", "consistency"} <= last.keys()
    assert list((tmp_path / "run/profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "supervized"}, r"config\.objective\.name='supervized' is unknown: did you mean 'supervised'"),
        ({"name": "toy_training:Nothing"}, r"config\.objective\.name='toy_training:Nothing': toy_training has no"),
        ({"name": "toy_training:TwoViews", "custom": {"wait": 1}}, r"config\.objective\.custom does not fit.*'wait'"),
    ],
)
def test_mistakes(changes, message, make_config):
    config = make_config()
    for key, value in changes.items():
        config.objective[key] = value
    with pytest.raises(UserError, match=message):
        make_objective(config, 5)


def test_mistakes_in_the_names_of_other_parts(make_config, tmp_path):
    with pytest.raises(UserError, match=r"config\.sharding='replicate' is unknown: did you mean 'replicated'"):
        make_run(make_config(sharding="replicate"), 5)
    with pytest.raises(UserError, match=r"config\.loss\.custom\.powr is unknown: did you mean 'power'"):
        config = make_config(loss__name="toy_training:squared_error")
        config.loss.custom = {"powr": 1.0}
        make_run(config, 5)
    with pytest.raises(UserError, match=r"config\.hooks='toy_training:Note': toy_training has no 'Note'"):
        loop.run(make_config(hooks=("toy_training:Note",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_the_count_of_a_weighted_objective():
    """Class weights are given after it was made."""
    objective = make_weighted()
    batch = {name: np.asarray(x) for name, x in tiny.batch(size=2).items()}
    out = jax.jit(Tiny("none").init_with_output)(jax.random.key(0), batch["image"])[0]
    _, counts = objective(out, batch)
    weights = np.arange(1.0, CLASSES + 1, dtype=np.float32)
    np.testing.assert_allclose(counts["cross_entropy"], pixel_count(batch["label"], class_weights=weights))
    assert counts["aux_stem/cross_entropy"] is counts["cross_entropy"]


def make_weighted():
    objective = Supervised(CLASSES)
    objective.class_weights = np.arange(1.0, CLASSES + 1)
    return objective
