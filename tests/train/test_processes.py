"""Two processes on loopback end where one process ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from tiny import setup

from attnseg_jax.errors import UserError
from attnseg_jax.train.parallel import make_parallel
from attnseg_jax.train.processes import initialize_distributed
from attnseg_jax.train.state import eval_variables

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "mesh"])
def test_two_processes_equal_one(mode, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        JAX_PLATFORMS="cpu",
        JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
        JAX_NUM_PROCESSES="2",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "tests/helpers/process.py", mode, tmp_path],
            env=dict(environment, JAX_PROCESS_ID=str(index)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert sum("3 is damaged" in output for output in outputs) >= 1

    state, train_step, eval_step = setup(tiny.Tiny(), ema_decay=0.9)
    one = make_parallel("mesh", train_step, eval_step, jax.devices()[:1])
    state = one.put_state(state)
    for i in range(3):
        state, metrics = one.train(state, one.shard_batch(tiny.batch(i)))
    confusion, prediction = one.evaluate(eval_variables(state), tiny.batch(9, size=6))
    results = [np.load(tmp_path / f"result{index}.npz") for index in range(2)]
    for result in results:
        for i, leaf in enumerate(jax.tree.leaves((state.params, state.batch_stats, state.ema))):
            assert np.abs(result[f"arr_{i}"] - np.asarray(leaf)).max() <= 1e-6
        assert float(result["loss"]) == pytest.approx(float(metrics["loss"]), abs=1e-5)
        np.testing.assert_array_equal(result["confusion"], confusion)
    np.testing.assert_array_equal(np.concatenate([result["prediction"] for result in results]), prediction)


def test_a_run_that_is_not_distributed_joins_nobody():
    initialize_distributed(False)
    assert not jax.distributed.is_initialized()


def test_processes_that_cannot_be_joined(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", _refuse)
    with pytest.raises(UserError, match=r"config\.distributed=True.*JAX_COORDINATOR_ADDRESS.*no coordinator"):
        initialize_distributed(True)


def _refuse(**_):
    raise ValueError("no coordinator\nand more")
