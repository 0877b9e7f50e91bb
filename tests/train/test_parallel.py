"""One device, eight by pmap and eight by mesh: the same run."""

import functools
import gc
import logging

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec
from tiny import Tiny, largest_difference, optimizer_config, setup

from attnseg_jax.errors import UserError
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.parallel import check_batch_size, make_parallel
from attnseg_jax.train.sharding import fully_sharded
from attnseg_jax.train.state import eval_variables

ADAMW = optimizer_config(name="adamw", learning_rate=3e-3, warmup_steps=2)


@functools.cache
def run(mode, count=8, steps=3, adamw=False, accumulate=1):
    """(state, losses, evaluation of an uneven batch) after some steps on batches of 16."""
    state, train_step, eval_step = setup(Tiny(), ADAMW if adamw else None, accumulate=accumulate)
    parallel = make_parallel(mode, train_step, eval_step, jax.devices()[:count])
    state = parallel.put_state(state)
    losses = []
    for i in range(steps):
        state, metrics = parallel.train(state, parallel.shard_batch(tiny.batch(i)))
        losses.append(float(metrics["loss"]))
    if adamw or accumulate > 1:
        return state, losses, None
    confusion, prediction = parallel.evaluate(eval_variables(state), tiny.batch(9, size=5))
    return state, losses, (np.asarray(confusion), np.asarray(prediction))


@pytest.fixture(scope="module")
def one():
    return run("mesh", 1)


@pytest.fixture(scope="module", params=["pmap", "mesh"])
def eight(request):
    assert jax.device_count() == 8
    return run(request.param)


def test_eight_devices_equal_one(one, eight):
    for part in ("params", "batch_stats", "opt_state"):
        assert largest_difference(getattr(one[0], part), getattr(eight[0], part)) <= 1e-6, part
    np.testing.assert_allclose(eight[1], one[1], rtol=0, atol=1e-5)
    assert len(set(one[1])) == 3


def test_plain_jit_equals_the_others(one):
    state, step, _ = setup()
    for i in range(3):
        state, _ = step(state, tiny.batch(i))
    assert largest_difference(state.params, one[0].params) <= 1e-6


def test_replicas_are_equal_bit_for_bit(eight):
    for leaf in jax.tree.leaves((eight[0].params, eight[0].batch_stats, eight[0].opt_state)):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 8
        assert all(copy.shape == leaf.shape and np.array_equal(copy, copies[0]) for copy in copies)


def test_uneven_evaluation_batch(one, eight):
    confusion, prediction = eight[2]
    assert prediction.shape == (5, *tiny.SIZE) and prediction.dtype == np.uint8
    np.testing.assert_array_equal(prediction, one[2][1])
    label = tiny.batch(9, size=5)["label"]
    expected = np.zeros((tiny.CLASSES, tiny.CLASSES), np.int64)
    np.add.at(expected, (label[label != 255], prediction[label != 255]), 1)
    np.testing.assert_array_equal(confusion, expected)
    assert confusion.dtype == np.int32


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_adamw_losses(mode):
    (_, expected, _), (_, losses, _) = run("mesh", 1, adamw=True), run(mode, adamw=True)
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_accumulation_takes_the_same_microbatches(mode):
    one, four = run("mesh", 1, accumulate=2), run(mode, 4, accumulate=2)
    assert largest_difference(one[0].params, four[0].params) <= 1e-6
    assert largest_difference(one[0].batch_stats, four[0].batch_stats) <= 1e-6


@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_one_compilation_no_transfer_and_a_donated_state(mode, caplog):
    first, train_step, eval_step = setup(Tiny(), ema_decay=0.75)
    parallel = make_parallel(mode, train_step, eval_step)
    before = jax.tree.map(np.asarray, first.params)
    state = parallel.put_state(first)
    batches = [parallel.shard_batch(tiny.batch(i)) for i in range(3)]
    with jax.log_compiles(), caplog.at_level(logging.WARNING), jax.transfer_guard("disallow"):
        for batch in batches:
            old = state
            state, _ = parallel.train(state, batch)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
    assert sum("Finished XLA compilation" in record.message for record in caplog.records) == 1
    # `put_state` copied, so the donation did not reach what it was given.
    assert largest_difference(first.params, before) == 0
    assert largest_difference(state.params, before) > 1e-3


def test_dropout_masks_differ_between_devices():
    image = np.repeat(tiny.batch(size=1)["image"], 8, axis=0)
    batch = {"image": image, "label": np.zeros((8, *tiny.SIZE), np.int32), "valid": np.ones(8, bool)}
    state, _, _ = setup(Tiny("none", dropout=0.5))

    def local_loss(state, batch):
        # Without the sum over the devices: each device's own loss.
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), jax.lax.axis_index("data"))
        model = Tiny("none", dropout=0.5)
        return model.apply({"params": state.params}, batch["image"], train=True, rngs={"dropout": key}).logits.sum()

    split = jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), batch)
    assert len(np.unique(jax.pmap(local_loss, axis_name="data", in_axes=(None, 0))(state, split))) == 8


@pytest.mark.parametrize(
    ("size", "accumulate", "words"),
    [
        (12, 1, ["config.train.batch_size=12", "8 devices", "8 or 16"]),
        (3, 1, ["8 devices", "give 8"]),
        (24, 2, ["config.train.accumulate=2", "16 or 32"]),
        (0, 1, ["give 8"]),
    ],
)
def test_batch_size_must_divide(size, accumulate, words):
    with pytest.raises(UserError) as error:
        check_batch_size(size, accumulate=accumulate)
    assert all(word in str(error.value) for word in words), error.value
    check_batch_size(16, accumulate=2)


def test_unknown_mode():
    with pytest.raises(UserError, match=r"config\.parallel='pmapp'.*'pmap'"):
        make_parallel("pmapp", None, None)


def whole_on_a_device(shape):
    """How many arrays of a shape, which a state should have in pieces, some device holds as a whole."""
    arrays = [x for x in jax.live_arrays() if x.shape == shape]
    assert arrays
    return sum(shard.data.shape == shape for x in arrays for shard in x.addressable_shards)


@pytest.mark.thorough
def test_a_state_in_pieces(tmp_path):
    """The numbers are those of one device, on two and eight; no large array is ever whole on a device."""
    model, wide, count = Tiny(width=72), (3, 3, 3, 72), 5
    expected, train_step, eval_step = setup(model, ema_decay=0.9)
    create = functools.partial(tiny.create, model, ema_decay=0.9)
    one = make_parallel("mesh", train_step, eval_step, jax.devices()[:1])
    expected, losses = one.put_state(expected), []
    for i in range(count):
        expected, metrics = one.train(expected, one.shard_batch(tiny.batch(i)))
        losses.append(float(metrics["loss"]))
    expected = jax.tree.map(np.array, expected.replace(key=0))  # copies: nothing is left on the device
    gc.collect()
    tiny.forget()

    for devices in (2, 8):
        parallel = make_parallel("fsdp", train_step, eval_step, jax.devices()[:devices])
        state = parallel.create_state(create)
        assert whole_on_a_device(wide) == 0
        state = parallel.put_state(state)
        for i in range(count):
            if i == 2:
                # From the pieces of a checkpoint on.
                with Checkpoints(tmp_path / str(devices)) as checkpoints:
                    checkpoints.save(i, state)
                    _, state = checkpoints.restore_latest(parallel.abstract_state(jax.eval_shape(create)))
                    assert whole_on_a_device(wide) == 0
                state = parallel.put_state(state)
            state, metrics = parallel.train(state, parallel.shard_batch(tiny.batch(i)))
            assert float(metrics["loss"]) == pytest.approx(losses[i], abs=1e-5)
            assert whole_on_a_device(wide) == 0
        kernel = state.params["stem"]["kernel"]
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 3, 3, 72 // devices)}
        for part in ("params", "batch_stats", "opt_state", "ema"):
            assert largest_difference(getattr(state, part), getattr(expected, part)) <= 1e-6, part
        confusion, _ = parallel.evaluate(eval_variables(state), tiny.batch(9, size=5))
        assert np.asarray(confusion).sum() == (tiny.batch(9, size=5)["label"] != 255).sum()

    with Checkpoints(tmp_path / "8") as checkpoints:
        checkpoints.save(count, state)
        _, whole = checkpoints.restore_latest(jax.eval_shape(create))
    pmap = make_parallel("pmap", train_step, eval_step, jax.devices()[:4])
    assert largest_difference(pmap.put_state(whole).params, expected.params) <= 1e-6


def test_only_pieces_that_are_equal():
    assert fully_sharded("", (3, 3, 24, 64), devices=8) == PartitionSpec(None, None, None, "data")
    assert fully_sharded("", (64, 64), devices=8) == PartitionSpec(None, "data")
    assert fully_sharded("", (96, 50), devices=8) == PartitionSpec("data", None)
    assert fully_sharded("", (7, 7, 3, 65), devices=8) == PartitionSpec()
    assert fully_sharded("", (1023 // 8 * 8,), devices=8) == PartitionSpec()


def test_pieces_by_another_rule():
    with pytest.raises(UserError, match=r"config\.parallel='fsdp'.*config\.sharding.*config\.parallel='mesh'"):
        make_parallel("fsdp", None, None, rule=lambda path, shape: PartitionSpec())
