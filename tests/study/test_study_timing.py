"""The study command's times: taken of all systems one after another, or of none."""

import datetime
import json
import os
from pathlib import Path

import pytest

from attnseg_jax.data.sources import load_source
from attnseg_jax.study import entries, timing

DEFAULT = str(Path(__file__).parents[2] / "configs/default.py")
# ml_collections reads config files that way.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


@pytest.mark.thorough
def test_times_taken_together(stub, tmp_path):
    """Of all systems with a finished run, whose folder may be gone."""
    stub([4, 8], "--only=4", seeds=(0, 1))
    before = stub.calls()
    os.rename(tmp_path / "out/runs", tmp_path / "gone")
    code, out, _, records = stub([4, 8], "--only=4", "--time", seeds=(0, 1))
    (timed,) = stub.calls()[len(before) :]
    assert code == 0 and timed.startswith("w4-0-") and timed not in before
    today = datetime.date.today().isoformat()
    assert len(records) == 2
    for record in records.values():
        assert record["timing"] == {"step_seconds": 4, "image_seconds": 0.5, "together": today}
        assert record["result"]["miou"] == 0.5 + record["seed"] / 8
    assert f"of all systems one after another on one machine, {today}." in out and "| 4 | 0.5 |" in out
    assert not list((tmp_path / "out/timing").iterdir())


def test_no_times_while_a_run_is_missing(stub, caplog):
    code, _, _, records = stub([4], "--max_minutes=0", "--time")
    assert code == 0 and stub.calls() == [] and "no times are taken, for 1 runs are not finished" in caplog.text
    code, _, _, records = stub([4, 3], "--time")
    assert code == 2 and not any("together" in str(record) for record in records.values())


@pytest.mark.thorough
def test_a_system_that_breaks_leaves_all_times(stub, tmp_path):
    stub([4, 9])
    path = tmp_path / "out/results.json"
    records = json.loads(path.read_text())
    for record in records.values():
        record["timing"] = {"step_seconds": 99, "together": "2000-01-01"}
    path.write_text(json.dumps(records))
    code, out, err, found = stub([4, 9], "--time")
    assert code == 2 and out == ""
    assert err.splitlines()[-1].startswith("error: --time: w9 seed 0 broke, no time is kept: no memory (see ")
    assert found == records and not list((tmp_path / "out/timing").iterdir())
    # As after a kill: what is there would be taken for finished.
    (short,) = (timing.shortened(run) for run in entries.plan(entries.load_study(tmp_path / "list.py"), tmp_path)[1:])
    left = tmp_path / "out/timing" / short.name
    left.mkdir()
    (left / "result.json").write_text("{}")
    (left / "timing.jsonl").write_text('{"step": 4, "step_seconds": 7}\n')
    (tmp_path / "out/timing/mended").touch()
    code, _, _, found = stub([4, 9], "--time")
    assert code == 0 and sorted(record["timing"]["step_seconds"] for record in found.values()) == [4, 9]
    assert not left.exists()


def test_a_run_to_time_is_the_same_but_short(tmp_path):
    runs = entries.plan([entries.Entry("a", {"optimizer.warmup_steps": 5}, DEFAULT)], tmp_path, "folder")
    short = timing.shortened(runs[0])
    assert short.config.train.steps == 12 and short.config.data.dir == "folder" and short.key != runs[0].key
    command = short.command(tmp_path)
    for text in ("train.steps=12", "optimizer.warmup_steps=0", "data.check=False", "data.dir=folder", "seed=0"):
        assert command.count(f"--config.{text}") == 1
    assert runs[0].config.train.steps > 12 and "train.steps" not in runs[0].changes


def test_regions_are_found_before_times_are_taken(blocks, blocks_flags, tmp_path):
    """Of both splits, once for each way to find them."""
    flags = {**blocks_flags, "data.regions.method": "slic", "data.regions.cache": str(tmp_path / "cache")}
    systems = [
        entries.Entry("a", {**flags, "model.kind": "rcnn"}, DEFAULT),
        entries.Entry("b", {**flags, "model.kind": "fast_rcnn"}, DEFAULT),
        entries.Entry("c", blocks_flags, DEFAULT),
    ]
    runs = entries.plan(systems, tmp_path)
    timing.prepare_data(runs)
    data = runs[0].config.data
    total = sum(len(load_source(data, split)) for split in (data.train_split, data.eval_split))
    assert len(list((tmp_path / "cache").iterdir())) == total
