"""The objective of matched masks: what a step minimises, devices and micro-batches, labels, options, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn
from tiny import CLASSES, largest_difference, optimizer_config

from attnseg_jax.configs import default
from attnseg_jax.errors import UserError
from attnseg_jax.models.features import Output, Queries
from attnseg_jax.ops.mask_classification import semantic_logits
from attnseg_jax.train import config as configs
from attnseg_jax.train.mask_classification import MaskClassification, MatchedLoss
from attnseg_jax.train.objective import make_objective
from attnseg_jax.train.optimizer import make_optimizer
from attnseg_jax.train.parallel import make_parallel
from attnseg_jax.train.setup import make_run
from attnseg_jax.train.state import create_state
from attnseg_jax.train.step import eval_step, train_step

LOSS = MatchedLoss(points=20, no_object=0.2)
WEIGHTS = np.linspace(0.5, 2.0, CLASSES).astype(np.float32)


class TinyQueries(nn.Module):
    """Six queries of one layer and, at half the size, of an earlier one; an auxiliary output without queries."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(6, (3, 3), strides=2)(x))

        def predict(name):
            classes = nn.Dense(6 * (CLASSES + 1), name=f"classes{name}")(x.mean((1, 2)))
            masks = jnp.moveaxis(nn.Dense(6, name=f"masks{name}")(x), 3, 1)
            return Queries(classes.reshape(-1, 6, CLASSES + 1), masks, size=(10, 12))

        last = predict(1)
        logits = semantic_logits(last.classes, jnp.moveaxis(last.masks, 1, 3))
        logits = jnp.repeat(jnp.repeat(logits, 2, 1), 2, 2)[:, :9, :11]
        aux = {"stem": nn.Dense(CLASSES, name="aux")(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)[:, :9, :11])}
        return Output(logits, {**aux, "first": logits}, queries=last, aux_queries={"first": predict(0)})


def batch(seed):
    """Whole segments, ignored pixels, an image without labels and a padding row."""
    made = tiny.batch(seed, share=0.3)
    made["label"][1] = 255
    made["valid"][-1] = False
    return made


@functools.cache
def run(mode, count, accumulate=1):
    """(state before and after two steps, metrics of both)."""
    rule, schedule = make_optimizer(optimizer_config(momentum=0.0, weight_decay=0.0, schedule="constant"), 10)
    objective = MaskClassification(CLASSES, LOSS)
    objective.class_weights = WEIGHTS
    start = create_state(TinyQueries(), rule, jax.random.key(0), tiny.IMAGE, ema=False)
    step = functools.partial(
        train_step, model=TinyQueries(), optimizer=rule, objective=objective, schedule=schedule, accumulate=accumulate
    )
    evaluate = functools.partial(eval_step, model=TinyQueries(), num_classes=CLASSES)
    fields = {"image": 0, "valid": False, **objective.fields}
    parallel = make_parallel(mode, step, evaluate, jax.devices()[:count], fields=fields)
    before = jax.tree.map(np.asarray, start.params)
    state, metrics = parallel.put_state(start), []
    for i in range(2):
        state, found = parallel.train(state, parallel.shard_batch(batch(i)))
        metrics.append({name: np.asarray(value) for name, value in found.items()})
    return before, jax.tree.map(np.asarray, state.params), metrics


def assert_same(one, other):
    assert largest_difference(one[1], other[1]) <= 2e-6
    for a, b in zip(one[2], other[2], strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_allclose(b[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "mode, count, accumulate",
    [("pmap", 8, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("mesh", 8, 1), ("pmap", 4, 2)))],
)
def test_devices_and_micro_batches_make_no_difference(mode, count, accumulate):
    """The points of an image are the same anywhere."""
    assert_same(run("mesh", 1), run(mode, count, accumulate))


def test_the_parts_add_up():
    before, after, (first, second) = run("mesh", 1)
    for found in (first, second):
        last = 2 * found["loss_class"] + 5 * found["loss_mask"] + 5 * found["loss_dice"]
        assert float(found["loss"]) == pytest.approx(last + found["aux_first"] + 0.4 * found["aux_stem"], rel=1e-5)
    assert first["confusion"].sum() == (batch(0)["label"][:-1] != 255).sum()
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert min(jax.tree.leaves(moved)) > 1e-6


def painted(labels, order, size, confidence=12.0):
    """Queries that paint the segments of one image, in the order of `order`, on masks that cover `size`."""
    masks, classes = np.full((1, len(order), *size), -confidence), np.zeros((1, len(order), CLASSES + 1))
    for q, k in enumerate(order):
        classes[0, q, k] = confidence
        if k < CLASSES:
            masks[0, q, : labels.shape[1], : labels.shape[2]] = np.where(labels[0] == k, confidence, -confidence)
    return Queries(jnp.asarray(classes, jnp.float32), jnp.asarray(masks, jnp.float32), size=size)


@pytest.mark.parametrize("size", [(20, 31)])
def test_queries_that_paint_the_segments_cost_little(size):
    """In any order, whatever they paint where labels are ignored, and where masks reach beyond the image."""
    blocks = np.array([[0, 2, 2], [255, 2, 5]])
    labels = np.repeat(np.repeat(blocks, 8, 0), 8, 1)[None]
    loss = MatchedLoss(points=300, importance=0.0, focal=False)

    @jax.jit
    def means(queries):
        keys = jax.random.split(jax.random.key(0), 1)
        sums, counts = loss.terms({"": queries}, jnp.asarray(labels), keys, num_classes=CLASSES)
        assert sums.keys() == counts.keys()
        return {name: sums[name] / counts[name] for name in sums}

    good = painted(labels, (5, CLASSES, 0, 2, CLASSES), size)
    for queries in (good, good.replace(masks=good.masks.at[..., 8:16, :7].set(40.0))):
        found = means(queries)
        assert found["/class"] < 1e-3 and found["/mask"] < 0.25 and found["/dice"] < 0.1
    bad = means(painted(labels, (5, CLASSES, 1, 2, CLASSES), size))
    assert bad["/class"] > 2


def test_options_of_the_config():
    config = default.get_config()
    group = config.loss.mask_classification
    assert make_objective(with_loss(), CLASSES).loss == MatchedLoss(**group.to_dict()) == MatchedLoss()
    assert "mask_classification" not in configs.resolve(config)["loss"]
    assert "mask_classification" in configs.resolve(with_loss())["loss"]


def with_loss(**changes):
    config = default.get_config()
    config.loss.name = "mask_classification"
    config.update_from_flattened_dict(changes)
    return config


_QUERIES = {"model.decoder.name": "mask_transformer", "model.decoder.mask_transformer.queries": 9}
_OPTION = "loss.mask_classification."


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {},
            r"config\.loss\.name='mask_classification' trains queries, and config\.model\.decoder\.name='fcn' has none",
        ),
        ({"model.decoder.name": "mask_transformer"}, r"set config\.model\.decoder\.mask_transformer\.queries, such"),
        ({"loss.label_smoothing": 0.1}, r"config\.loss\.label_smoothing=0\.1 does nothing in mask_classification"),
        (
            {"loss.scales": (2.0,)},
            r"config\.loss\.scales=\(2\.0,\) does nothing in mask_classification: set it to \(\)",
        ),
        ({"loss.name": "mask_classification+dice"}, "'mask_classification' is no loss of pixels: name it alone"),
        (
            {_OPTION + "importance": 1.5},
            r"config\.loss\.mask_classification\.importance=1\.5 must be at least 0 and at m",
        ),
        ({_OPTION + "points": 0}, r"config\.loss\.mask_classification\.points=0 must be at least 1"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(UserError, match=message):
        make_run(with_loss(**changes), CLASSES)


@pytest.mark.thorough
def test_what_fits_is_built():
    make_run(with_loss(**_QUERIES), CLASSES)
    # Without this loss queries are trained by pixels.
    make_run(with_loss(**_QUERIES, **{"loss.name": "cross_entropy"}), CLASSES)
    make_run(with_loss(**{"model.decoder.name": "masked_attention"}), CLASSES)
    eomt = {"model.backbone.name": "vit_ti", "model.decoder.name": "eomt", "model.decoder.eomt.blocks": 1}
    run = make_run(with_loss(**eomt), CLASSES)
    assert run.abstract.batch_stats["decoder"]["mask_probability"].shape == (1,)
    assert run.parallel.train is not None
