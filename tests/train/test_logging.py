import io
import json
import logging as std_logging
import os
import resource
import sys
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.train import logging as module
from attnseg_jax.train.logging import ImageBar, MetricWriter, Progress, Waits, peak_bytes, say


def _lines(workdir):
    return [
        json.loads(line, parse_constant=pytest.fail) for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def log():
    """Messages of the absl logger."""
    messages = []

    class Handler(std_logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    handler, logger = Handler(), absl_logging.get_absl_logger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(std_logging.INFO)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_writer_appends_valid_json_and_flushes_each_line(tmp_path):
    with closing(MetricWriter(tmp_path)) as writer:
        writer.write(10, {"loss": jnp.float32(1.5), "miou": float("nan"), "grad_norm": np.inf})
        assert _lines(tmp_path) == [{"step": 10, "loss": 1.5, "miou": None, "grad_norm": None}]
        writer.write_scores(20, Scores.from_confusion(np.array([[3, 1], [0, 0]])), ["sky", "straße"])
        assert _lines(tmp_path)[1] == {
            "step": 20, "val_miou": 0.375, "val_pixel_accuracy": 0.75, "val_class_accuracy": 0.75,
            "val_iou/sky": 0.75, "val_iou/straße": 0.0,
        }  # fmt: skip
    writer.close()
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_holds_the_scalars_and_no_nan(tmp_path):
    with closing(MetricWriter(tmp_path)) as writer:
        writer.write(10, {"loss": 1.5, "miou": float("nan")})
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert b"loss" in path.read_bytes() and b"miou" not in path.read_bytes()


@pytest.mark.parametrize("torn", ['{"step": 20, "lo', '{"step": 20, "loss": 0.1}', "[1]\n", "\n"])
def test_resumed_writer_has_each_step_once(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    with closing(MetricWriter(tmp_path)) as writer:
        for step in (5, 10, 15, 20):
            writer.write(step, {"loss": step})
    with path.open("a") as file:
        file.write(torn)
    with closing(MetricWriter(tmp_path, start_step=10)) as writer:
        assert [line["step"] for line in _lines(tmp_path)] == [5, 10]
        for step in (15, 20):
            writer.write(step, {"loss": -step})
    assert _lines(tmp_path) == [{"step": s, "loss": v} for s, v in ((5, 5), (10, 10), (15, -15), (20, -20))]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_a_new_run_in_an_old_folder_starts_empty(tmp_path):
    with closing(MetricWriter(tmp_path)) as writer:
        writer.write(5, {"loss": 1})
    MetricWriter(tmp_path).close()
    assert _lines(tmp_path) == []


def test_other_processes_write_and_say_nothing(tmp_path, monkeypatch, log):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    stream = Terminal()
    writer, progress = MetricWriter(tmp_path), Progress(100, 8, stream=stream, terminal=True)
    with closing(writer), closing(progress):
        writer.write(5, {"loss": 1})
        progress.update(5, {"loss": 1})
        say("hello")
    assert list(tmp_path.iterdir()) == [] and stream.getvalue() == "" and log == []


def test_timings_have_a_file_of_their_own(tmp_path):
    with closing(MetricWriter(tmp_path)) as writer:
        writer.write(5, {"loss": 1})
        writer.write_timing(5, step_seconds=None)
        assert not (tmp_path / "timing.jsonl").exists()
        writer.write_timing(5, image_seconds=float("nan"), peak_bytes=7)
        writer.write_timing(10, step_seconds=0.5)
    read = lambda: [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]  # noqa: E731
    assert read() == [{"step": 5, "image_seconds": None, "peak_bytes": 7}, {"step": 10, "step_seconds": 0.5}]
    with closing(MetricWriter(tmp_path, start_step=7)) as writer:
        writer.write_timing(10, step_seconds=0.25)
    assert read()[1:] == [{"step": 10, "step_seconds": 0.25}] and _lines(tmp_path) == [{"step": 5, "loss": 1}]


def test_the_pace_of_steps():
    """Without pauses, and without the first report, which has the compilation."""
    clock = Clock()
    progress = Progress(500, 8, start_step=100, stream=io.StringIO(), clock=clock)
    clock.now += 60
    assert progress.update(110) is None and progress.update(120, {}) is None
    clock.now += 4
    with progress.pause():
        clock.now += 1000
    assert progress.update(128, {}) == 0.5
    assert progress.update(128, {}) is None


def test_peak_memory():
    """In bytes, and at most what the kernel counts, which may begin with another process."""
    unit = 1 if sys.platform == "darwin" else 1024
    # Kernels add up both now and then, not at the same moments.
    assert 2**26 < peak_bytes() <= 1.1 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def test_log_lines_without_a_terminal(log):
    clock, stream = Clock(), io.StringIO()
    progress = Progress(500, 8, start_step=100, stream=stream, clock=clock)
    clock.now += 400  # of which no speed is made: it has the compilation
    progress.update(100)
    assert log == []
    clock.now += 10
    progress.update(120, {"loss": jnp.float32(1.2344), "miou": 0.345, "learning_rate": 0.1})
    say("step 120: saved 100%")
    clock.now += 2
    progress.update(130, {"loss": 1.0})
    progress.close()
    assert log == [
        # 20 steps of 8 images in 10 s; 380 steps at 0.5 s each are 190 s.
        "step 120/500 loss 1.234 mIoU 0.345 16.0 images/s, 03:10 left",
        "step 120: saved 100%",
        "step 130/500 loss 1.000 40.0 images/s, 01:14 left",
    ]
    assert stream.getvalue() == ""


@pytest.mark.parametrize("reported", [False, True])
def test_the_first_estimate_has_no_compilation_in_it(log, reported):
    """It took 100 s, a step takes 2 s; `reported`: also where every step is."""
    clock = Clock()
    progress = Progress(21, 4, stream=io.StringIO(), clock=clock)
    clock.now += 102
    progress.update(1, {"loss": 1.0} if reported else None)
    clock.now += 2
    progress.update(2, {"loss": 1.0})
    first = ["step 1/21 loss 1.000"] if reported else []
    assert log == [*first, "step 2/21 loss 1.000 2.0 images/s, 00:38 left"]


def test_pauses_do_not_count(log):
    clock = Clock()
    progress = Progress(20, 4, stream=io.StringIO(), clock=clock)
    progress.update(0)
    clock.now += 1
    with pytest.raises(RuntimeError), progress.pause():
        clock.now += 1000
        raise RuntimeError
    clock.now += 1
    progress.update(10, {"loss": 1.0})
    assert log == ["step 10/20 loss 1.000 20.0 images/s, 00:02 left"]


def test_bar_on_a_terminal_with_messages_above_it(log, monkeypatch):
    clock, stream = Clock(), Terminal()
    progress = Progress(500, 8, start_step=100, stream=stream, terminal=True, clock=clock)
    progress.update(100)
    clock.now += 10
    progress.update(120, {"loss": 1.2344, "miou": 0.345})
    monkeypatch.setattr(module.sys, "stderr", stream)
    monkeypatch.setattr(module, "is_terminal", lambda stream: True)
    say("step 120: val mIoU 0.5")
    progress.update(500)
    progress.close()
    text = stream.getvalue()
    assert "| 100/500" in text and "| 500/500" in text
    assert "120/500, loss 1.234 mIoU 0.345 16.0 images/s, 03:10 left" in text
    assert "step 120: val mIoU 0.5\n" in text
    assert log == []


def test_how_far_an_evaluation_is(log):
    """A line no more often than every ten seconds, and none at the end."""
    now = iter([0.0, 4.0, 11.0, 11.0, 15.0, 22.0, 22.0])
    with ImageBar("evaluate", 10, clock=lambda: next(now)) as bar:
        for rows in ([1, 1], [1, 1, 1, 0], [1], [1, 1], [1, 1]):
            bar({"valid": np.array(rows, bool)}, None)
    assert log == ["evaluate: 5 of 10 images, 00:11 left", "evaluate: 8 of 10 images, 00:05 left"]


def test_bars_only_on_terminals_with_a_size(monkeypatch):
    def bar():
        with ImageBar("evaluate", 3) as made:
            made({"valid": np.array([True, False, True])}, None)
            return made._bar is not None

    assert not bar()
    ends = os.openpty()
    with open(ends[1], "w") as terminal:
        monkeypatch.setattr(module.sys, "stderr", terminal)
        monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((100, 40)))
        assert not bar()  # these tests set TQDM_DISABLE
        monkeypatch.delenv("TQDM_DISABLE")
        assert bar()
        say("compiling")
        assert b"compiling" in os.read(ends[0], 10_000)
        monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
        assert not bar()
    os.close(ends[0])


def test_waiting_for_batches():
    """2 s for the first, 3 s for the second, 5 s to learn that there is no third; what is done meanwhile is not."""
    times = iter([0, 2, 10, 13, 20, 25])
    waits = Waits(clock=lambda: next(times))
    seconds = []
    for _ in waits(iter("ab")):
        seconds.append(waits.take())
    assert seconds == [2, 3] and waits.take() == 5 and waits.take() == 0
