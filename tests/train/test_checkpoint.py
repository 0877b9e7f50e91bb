"""Checkpoints: what is saved comes back bit for bit, and what is damaged is never used."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from saved import equal, filled, numbers, toy
from tiny import Tiny, optimizer_config, setup

from attnseg_jax.errors import UserError
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.parallel import make_parallel

ADAMW = optimizer_config(name="adamw", learning_rate=1e-2, warmup_steps=2, weight_decay=0.01)


@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_a_resumed_run_ends_bit_equal(mode, tmp_path):
    first, train_step, eval_step = setup(Tiny(dropout=0.3), ADAMW, ema_decay=0.9)
    parallel = make_parallel(mode, train_step, eval_step)

    def advance(state, steps):
        for i in steps:
            state, _ = parallel.train(state, parallel.shard_batch(tiny.batch(i)))
        return state

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = advance(parallel.put_state(first), range(2))
        half = numbers(state)
        checkpoints.save(2, state)
        # The next steps donate the buffers while they are being written.
        uninterrupted = advance(state, range(2, 4))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        step, restored = checkpoints.restore_latest(jax.eval_shape(lambda: first))
    assert step == 2 and type(restored) is type(first)
    assert all(np.array_equal(x, y) for x, y in zip(numbers(restored), half, strict=True))
    assert equal(advance(parallel.put_state(restored), range(2, 4)), uninterrupted)


def test_restores_on_fewer_devices(tmp_path):
    first, train_step, eval_step = setup(Tiny())
    eight = make_parallel("pmap", train_step, eval_step)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(0, eight.put_state(first))
        _, restored = checkpoints.restore_latest(first)
    for mode in ("pmap", "mesh"):
        one = make_parallel(mode, train_step, eval_step, jax.devices()[3:4])
        state = one.put_state(restored)
        assert equal(state, first)
        assert state.step.devices() == {jax.devices()[3]}


def test_keeps_the_latest_and_the_best(tmp_path):
    scores = {10: 0.3, 20: 0.9, 30: 0.5, 40: 0.8, 50: float("nan"), 60: 0.1}
    with Checkpoints(tmp_path / "c", keep=2) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, toy(step))
            checkpoints.add_metrics(step, {"miou": score})
        checkpoints.prune()
        assert sorted(checkpoints.steps()) == [20, 40, 60]
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (20, 60)
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert sorted(checkpoints.steps()) == [20, 40, 60]
        assert checkpoints.metrics(20) == {"miou": 0.9}
        step, best = checkpoints.restore_best(toy())
        assert step == 20 and equal(best, toy(20))
        assert equal(checkpoints.restore(40, toy()), toy(40))
        assert checkpoints.restore_latest(toy())[0] == 60
        with pytest.raises(UserError, match=r"no checkpoint of step 30; there are \[20, 40, 60\]"):
            checkpoints.restore(30, toy())


def test_saving_a_step_again_keeps_it(tmp_path):
    with Checkpoints(tmp_path / "c", keep=9) as checkpoints:
        for value, miou in ((1, 0.5), (2, 0.6)):
            checkpoints.save(7, toy(value))
            checkpoints.add_metrics(7, {"miou": miou})
        assert checkpoints.metrics(7) == {"miou": 0.5}
        assert equal(checkpoints.restore(7, toy()), toy(1))


def test_keeps_a_latest_without_metrics_and_only_the_best_one(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, toy(step))
            if step < 3:
                checkpoints.add_metrics(step, {"miou": 0.2})
        checkpoints.prune()
        assert sorted(checkpoints.steps()) == [2, 4]
        assert checkpoints.best_step() == 2 and checkpoints.metrics(4) == {}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (toy(gate=jnp.zeros((2, 7))), ["only in this config: params/gate float32[2, 7]"]),
        ({"params": {"conv": toy()["params"]["conv"]}}, ["only in the checkpoint: key key<fry>[]"]),
        (
            {**toy(), "params": {"conv": {"kernel": jnp.zeros((3, 9)), "bias": jnp.zeros(5)}}},
            ["in the checkpoint: params/conv/kernel float32[3, 5]", "in this config: params/conv/kernel float32[3, 9]"],
        ),
        (
            {**toy(), "params": jax.tree.map(lambda x: x.astype(jnp.bfloat16), toy()["params"])},
            ["params/conv/bias float32[5]", "params/conv/bias bfloat16[5]"],
        ),
    ],
)
def test_another_state_is_refused(wanted, words, tmp_path):
    with filled(tmp_path, (1,)) as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore_latest(wanted)
    message = str(error.value)
    assert all(word in message for word in [*words, "checkpoints/1", "--workdir"]), message
    assert "\n" not in message


def test_another_optimizer_is_refused(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, setup()[0])
        with pytest.raises(UserError) as error:
            checkpoints.restore_latest(jax.eval_shape(lambda: setup(optimizer=ADAMW)[0]))
    assert "opt_state/momentum" in str(error.value) and "opt_state/adam" in str(error.value)
    assert "in all)" in str(error.value)


def test_kill_during_a_save_leaves_the_one_before(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        import jax.numpy as jnp
        from attnseg_jax.train.checkpoint import Checkpoints

        checkpoints = Checkpoints(sys.argv[1], keep=1)
        checkpoints.save(1, {"x": jnp.arange(5.0)})
        checkpoints.add_metrics(1, {"miou": 0.1})
        print("saving", flush=True)
        checkpoints.save(2, {"x": jnp.ones(60_000_000)})
        checkpoints.wait()
        """
    )
    root = Path(__file__).parents[2]
    environment = dict(os.environ, PYTHONPATH=str(root), JAX_PLATFORMS="cpu")
    folder = tmp_path / "checkpoints"
    process = subprocess.Popen([sys.executable, "-c", script, folder], stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout.readline() == b"saving\n"
        deadline = time.monotonic() + 30
        while not list(folder.glob("2.*")) and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert list(folder.glob("2.*")) and not (folder / "2").exists()
    with Checkpoints(folder) as checkpoints:
        step, state = checkpoints.restore_latest({"x": jnp.zeros(5)})
        assert step == 1 and equal(state, {"x": jnp.arange(5.0)})
        assert not list(folder.glob("2.*"))


def test_metrics_that_come_later(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, toy(1))
        checkpoints.add_metrics(1, {"miou": 0.7})
        checkpoints.add_metrics(1, {"miou": 0.1})
        checkpoints.save(2, toy(2))
        assert (checkpoints.metrics(1), checkpoints.metrics(2)) == ({"miou": 0.7}, {})
        checkpoints.discard(2)
        assert checkpoints.steps() == [1] and checkpoints.saved_step == 2
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"]


@pytest.mark.thorough
def test_a_reader_beside_a_running_training(tmp_path, monkeypatch):
    """Each new checkpoint replaces the one before."""
    # Orbax's coroutines complain, where nobody can catch it, when a read ends with an error and is tried again.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    filled(tmp_path, (1,)).close()
    done = threading.Event()

    def train():
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            for step in range(2, 22):
                checkpoints.save(step, toy(step))
                checkpoints.add_metrics(step, {"miou": step / 100})
                checkpoints.prune()
        done.set()

    thread = threading.Thread(target=train)
    thread.start()
    found = []
    while not done.is_set():
        with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
            step, state = checkpoints.restore_latest(toy())
            assert equal(state, toy(step))
            found.append(step)
            step, arrays, _ = checkpoints.restore_arrays()
            assert (arrays["params/conv/bias"] == step).all()
            checkpoints.restore_best(toy())
    thread.join()
    assert found == sorted(found) and len(found) > 3
    gc.collect()


def test_a_full_disk(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, toy(1))
        checkpoints.wait()
        full = shutil.disk_usage(tmp_path)._replace(free=10)
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: full)
            with pytest.raises(
                UserError, match=r"step 2 cannot be written \(No space left on device\), that of step 1"
            ):
                checkpoints.save(2, toy(2))
        checkpoints.save(2, toy(2))
        assert checkpoints.steps() == [1, 2]


def test_a_disk_that_fills_up_during_a_save(tmp_path):
    script = textwrap.dedent(
        """
        import resource
        import sys
        import jax.numpy as jnp
        import numpy as np
        import attnseg_jax.cli
        from attnseg_jax.errors import UserError
        from attnseg_jax.train.checkpoint import Checkpoints

        state = {"x": jnp.asarray(np.random.default_rng(0).random(100_000))}
        with Checkpoints(sys.argv[1]) as checkpoints:
            checkpoints.save(1, state)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            with Checkpoints(sys.argv[1]) as checkpoints:
                checkpoints.save(2, state)
        except UserError as error:
            print(error)
        """
    )
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]), JAX_PLATFORMS="cpu")
    command = [sys.executable, "-c", script, tmp_path / "c"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == (
        f"{tmp_path}/c: the checkpoint of step 2 cannot be written (File too large), that of step 1 is kept: make "
        "room, and the same command continues there\n"
    )
    assert "Event loop" not in done.stderr
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["1"]
