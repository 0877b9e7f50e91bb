"""Runs of two processes of which one fails: both end soon, each with a line that says which one and why."""

import json
import shutil
import signal
import sys

import pytest
from pair import ROOT, Pair

from attnseg_jax.train import config as configs

SECONDS = 60


def train(folder, flags):
    return [
        *(sys.executable, ROOT / "train.py", f"--workdir={folder}"),
        *(f"--config.{key}={value}" for key, value in {**flags, "distributed": True}.items()),
    ]


def last_lines(pair):
    return [pair.errors(index).splitlines()[-1] for index in range(2)]


@pytest.mark.thorough
def test_what_needs_no_model(blocks_flags, make_config, copies, tmp_path):
    """Different configs, a failure while the other one waits, a run that is finished: three pairs at once."""
    for name in "abc":
        (tmp_path / name).mkdir()
    done = tmp_path / "c/run"
    done.mkdir()
    # Each process has its data in a folder of its own; process 0 has left its config.
    config = make_config(distributed=True, data__dir=str(copies[0]))
    (done / "config.json").write_text(configs.to_json(config))
    (done / "result.json").write_text('{"split": "val", "step": 6, "miou": 0.25, "iou": {}}')
    seeds = Pair(lambda i: train("run", {**blocks_flags, "seed": 5 * i}), tmp_path / "a")
    broken = Pair(lambda i: [sys.executable, ROOT / "tests/helpers/meeting.py"], tmp_path / "b")
    finished = Pair(lambda i: train("run", {**blocks_flags, "data.dir": copies[i]}), tmp_path / "c")
    with seeds, broken, finished:
        assert seeds.end(SECONDS) == [2, 2]
        assert broken.end(SECONDS) == [2, 2]
        assert finished.end(SECONDS) == [0, 0], finished.errors(0) + finished.errors(1)
    assert all("run is finished; its result" in finished.errors(index) for index in range(2))
    what = "the processes differ: config.seed is 5 in process 1 and 0 in process 0: give all the same command"
    assert all(line.startswith(f"error: {what}") for line in last_lines(seeds))
    assert not (tmp_path / "a/run").exists()
    assert last_lines(broken) == ["error: process 1 of 2: b3.png is broken"] * 2
    for pair in (seeds, broken):
        assert all(pair.errors(index).count("error: ") == 1 for index in range(2))
        assert all("Traceback" not in pair.errors(index) for index in range(2))


@pytest.fixture
def copies(blocks, tmp_path):
    """The data of each process."""
    return [shutil.copytree(blocks, tmp_path / f"data{index}") for index in range(2)]


@pytest.fixture
def start(blocks_flags, copies, tmp_path):
    """Starts a run of two processes of 100,000 steps, or of fewer."""
    flags = {**blocks_flags, "train.steps": 100000, "train.accumulate": 1, "train.batch_size": 4}

    def run(**changes):
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        return Pair(lambda i: train("run", {**flags, "data.dir": copies[i], **changes}), tmp_path)

    return run


@pytest.mark.slow
def test_different_data(start, copies, tmp_path):
    for folder in ("images", "masks"):
        (copies[1] / folder / "train/b3.png").unlink()
    with start() as pair:
        assert pair.end(SECONDS) == [2, 2]
        for line in last_lines(pair):
            assert "the training data is '11 images in 22 files" in line and "'12 images in 24 files" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "mode"), [(0, "pmap"), (1, "pmap"), (1, "mesh")])
def test_kill(victim, mode, start, tmp_path):
    with start(parallel=mode) as pair:
        pair.wait_for("step 6: val mIoU")
        pair.processes[victim].kill()
        codes = pair.end(SECONDS)
        assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 2
        line = pair.errors(1 - victim).splitlines()[-1]
        assert line.startswith(f"error: process {victim} of 2: no sign of life") and "killed" in line
    _resumes(start, tmp_path, mode)


@pytest.mark.slow
@pytest.mark.parametrize("reader", [0, 1])
def test_a_broken_file_that_one_process_reads(reader, start, copies, tmp_path):
    with start() as pair:
        pair.wait_for("step 3: val mIoU")
        whole = {path: path.read_bytes() for path in (copies[reader] / "images/train").iterdir()}
        for path, data in whole.items():
            path.write_bytes(data[:100])
        assert pair.end(SECONDS) == [2, 2]
        mine, other = last_lines(pair)
        assert mine == other
        assert mine.startswith(f"error: process {reader} of 2: {copies[reader]}/images/train/b")
    for path, data in whole.items():
        path.write_bytes(data)
    _resumes(start, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "victim"), [("SIGINT", 1), ("SIGINT", 0), ("SIGTERM", 1)])
def test_a_signal_to_one_process_stops_all_at_one_step(number, victim, start, tmp_path):
    with start() as pair:
        pair.wait_for("step 3: val mIoU")
        pair.processes[victim].send_signal(getattr(signal, number))
        codes = pair.end(SECONDS)
        assert codes[victim] == 128 + getattr(signal, number) and codes[1 - victim] in (130, 143)
        mine, other = (line.partition("; ")[2] for line in last_lines(pair))
        assert mine == other and mine.endswith("is saved, the same command continues there")
    _resumes(start, tmp_path)


@pytest.mark.slow
def test_a_signal_is_answered_between_two_batches_of_an_evaluation(start, copies):
    for folder in copies:
        for path in [*folder.glob("*/val/b0.png")]:
            for number in range(5, 1000):
                shutil.copy(path, path.with_name(f"b{number}.png"))
    with start(eval__batch_size=2) as pair:
        pair.wait_for("evaluate: compiling")
        pair.processes[1].send_signal(signal.SIGTERM)
        assert pair.end(SECONDS) == [143, 143]
        assert all("step 3 is saved, the same command continues there" in line for line in last_lines(pair))
        assert "val mIoU" not in pair.errors(0)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_all_at_once(start, tmp_path):
    with start() as pair:
        pair.wait_for("step 3: val mIoU")
        pair.processes[1].send_signal(signal.SIGINT)
        pair.wait_for("once more stops it at once", 1)
        pair.processes[1].send_signal(signal.SIGINT)
        codes = pair.end(SECONDS)
        assert codes == [2, 130]
        other, mine = last_lines(pair)
        assert other == "error: process 1 of 2: interrupted"
        assert mine.startswith("stopped at once by a signal (SIGINT); the checkpoint of step ")
        assert "Traceback" not in pair.errors(0) + pair.errors(1)


def _resumes(start, tmp_path, mode="pmap"):
    steps = max(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdecimal())
    with start(train__steps=steps + 3, parallel=mode) as pair:
        assert pair.end(300) == [0, 0], pair.errors(0) + pair.errors(1)
    assert json.loads((tmp_path / "run/result.json").read_text())["step"] == steps + 3
    assert f"checkpoint of step {steps}" in pair.errors(0) or f"step {steps}" in pair.errors(0)
