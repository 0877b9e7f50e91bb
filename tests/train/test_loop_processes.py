"""Runs that are killed, and runs of several processes, through train.py itself."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from workdirs import assert_same_run, final_state, lines

from attnseg_jax.evaluation.counts import ImageCounts

ROOT = Path(__file__).parents[2]


def command(workdir, flags):
    return [
        *(sys.executable, str(ROOT / "train.py"), f"--workdir={workdir}"),
        *(f"--config.{key}={value}" for key, value in flags.items()),
    ]


@pytest.mark.slow
def test_killed_runs_continue_to_the_same_end(blocks_flags, make_config, tmp_path):
    """kill -9 as soon as a save begins, and again once one is there; the third attempt ends the run."""
    flags = {**blocks_flags, "train.steps": 12, "parallel": "mesh"}
    subprocess.run(command(tmp_path / "whole", flags), check=True, cwd=tmp_path)
    workdir = tmp_path / "killed"
    for pattern in ("checkpoints/*tmp*", "checkpoints/6"):
        process = subprocess.Popen(command(workdir, flags), cwd=tmp_path)
        while process.poll() is None and not list(workdir.glob(pattern)):
            time.sleep(0.001)
        process.kill()
        process.wait()
        assert not (workdir / "result.json").exists()
    subprocess.run(command(workdir, flags), check=True, cwd=tmp_path)
    assert_same_run(make_config(train__steps=12), tmp_path / "whole", workdir)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "mesh", "fsdp"])
def test_two_processes_train_as_one(mode, blocks_flags, make_config, tmp_path, free_port):
    flags = {**blocks_flags, "parallel": mode, "optimizer.name": "sgd", "optimizer.learning_rate": 0.02}
    # Dropout masks depend on the device, the order of micro-batches on the process.
    flags |= {"model.attention.self.dropout": 0.0, "model.decoder.fcn.dropout": 0.0, "train.accumulate": 1}
    quiet = dict(os.environ, JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_force_host_platform_device_count=2")
    subprocess.run(command(tmp_path / "one", flags), check=True, cwd=tmp_path, env=quiet)
    environment = dict(
        quiet,
        JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
        JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{free_port}",
        JAX_NUM_PROCESSES="2",
    )
    two = command(tmp_path / "two", {**flags, "distributed": True})
    processes = [
        subprocess.Popen(two, cwd=tmp_path, env=dict(environment, JAX_PROCESS_ID=str(i)), stdout=subprocess.PIPE)
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert all("validation mIoU" in output for output in outputs)
    changes = {key.replace(".", "__"): value for key, value in flags.items()}
    (step, one), (other, two) = (final_state(make_config(**changes), tmp_path / name) for name in ("one", "two"))
    assert step == other == 6
    for name in one:
        # The momentum is the parameters' change divided by the learning rate.
        limit = 1e-5 if "opt_state" in name else 1e-6
        assert np.abs(one[name].astype(float) - two[name].astype(float)).max() <= limit, name
    for name in ("one", "two"):
        assert [x["step"] for x in lines(tmp_path / name)] == [2, 3, 3, 4, 6, 6]
        assert len(list((tmp_path / name / "tensorboard").iterdir())) == 1
    assert len(list((tmp_path / "two" / "predictions").iterdir())) == 2
    # Each process counted its own images; none is missing, none there twice.
    texts = [(tmp_path / name / "counts.json").read_text() for name in ("one", "two")]
    truths = [ImageCounts.decode(json.loads(text)).everywhere[..., [0, 2]].sum(-1) for text in texts]
    np.testing.assert_array_equal(*truths)
    assert (truths[0].sum(1) > 0).all()
    losses = [[x["loss"] for x in lines(tmp_path / name) if "loss" in x] for name in ("one", "two")]
    # XLA adds up a few thousand pixels one by one, many more in a tree; a device's share decides.
    np.testing.assert_allclose(*losses, atol=5e-5)


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
