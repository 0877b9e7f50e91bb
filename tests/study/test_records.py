"""Records of runs: what is taken up from a workdir, what older records and versions lack, what stands beside."""

import json

import numpy as np
import pytest
from records import finish, plan, write_lines

from attnseg_jax.errors import UserError
from attnseg_jax.evaluation.counts import ImageCounts
from attnseg_jax.plots.segmentation import read_label_map
from attnseg_jax.study.records import Results

# ml_collections reads config files that way.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


def test_what_a_finished_run_left(tmp_path):
    (run,) = plan(tmp_path, ["a"], (3,))
    found = finish(tmp_path / "run")
    results = Results(tmp_path / "r.json")
    results.add_failure(run, 12.0, "killed")
    results.add_result(run, tmp_path / "run", 30.0)
    record = json.loads((tmp_path / "r.json").read_text())[run.key]
    assert record["seconds"] == 42.0 and "error" not in record and record["result"]["pixel_accuracy"] == 0.5
    assert record["curve"] == [[3, 0.25], [6, record["result"]["miou"]]]
    assert record["timing"] == {"step_seconds": 3.0, "image_seconds": 0.5, "peak_bytes": 2**21}
    np.testing.assert_array_equal(ImageCounts.decode(record["counts"]).near_contours, found.near_contours)


def test_what_an_older_run_left(tmp_path):
    (run,) = plan(tmp_path, ["a"], (3,))
    finish(tmp_path / "run", timed=False, counted=False)
    results = Results(tmp_path / "r.json")
    results.add_result(run, tmp_path / "run", None)
    record = results.finished(run)
    assert record["seconds"] is None and record["curve"][0] == [3, 0.25]
    assert not {"timing", "counts"} & record.keys() and not (tmp_path / "r_predictions").exists()


def test_predictions_of_the_first_seed_are_kept(tmp_path):
    runs = plan(tmp_path, ["a b", "a b-1"], (3, 0))
    results = Results(tmp_path / "r.json")
    for number, run in enumerate(runs):
        labels = np.full((5, 7), number)
        finish(tmp_path / run.name, maps=[(2, labels), (11, labels)])
        results.add_result(run, tmp_path / run.name, 1.0)
    names = {f"{label}-{run.key}-{place}.png" for label, run in zip(("a_b", "a_b-1"), runs[::2]) for place in (2, 11)}
    assert {path.name for path in (tmp_path / "r_predictions").iterdir()} == names
    for value in (0, 2):
        kept = results.predictions(runs[value])
        assert sorted(kept) == [2, 11]
        assert (read_label_map(kept[11]) == value).all()
        assert not results.predictions(runs[value + 1])


def test_predictions_that_cannot_be_kept(tmp_path):
    (run,) = plan(tmp_path, ["a"], (3,))
    finish(tmp_path / "run", maps=[(0, np.zeros((2, 3)))])
    (tmp_path / "r_predictions").touch()
    with pytest.raises(UserError, match=r"--results=.*r\.json: .*a-\w+-0\.png cannot be written"):
        Results(tmp_path / "r.json").add_result(run, tmp_path / "run", 1.0)


def test_times_taken_together_replace_those_of_the_runs(tmp_path):
    """For the finished runs alone."""
    runs = plan(tmp_path, ["a"], (3, 4, 5))
    results = Results(tmp_path / "r.json")
    for run in runs[:2]:
        finish(tmp_path / run.name)
        results.add_result(run, tmp_path / run.name, 1.0)
    before = {run.key: dict(results.finished(run)) for run in runs[:2]}
    results.add_failure(runs[2], 1.0, "killed")
    results.add_timing(runs, {"step_seconds": 0.125})
    found = json.loads((tmp_path / "r.json").read_text())
    for run in runs[:2]:
        assert found[run.key] == {
            **before[run.key], "timing": {"step_seconds": 0.125, "image_seconds": 0.5, "peak_bytes": 2**21}
        }  # fmt: skip
    assert "timing" not in found[runs[2].key]


def test_a_timing_file_without_paces(tmp_path):
    """A run so short that its only log line has the compilation."""
    (run,) = plan(tmp_path, ["a"], (3,))
    finish(tmp_path / "run")
    write_lines(tmp_path / "run/timing.jsonl", {"step": 6, "peak_bytes": 8})
    results = Results(tmp_path / "r.json")
    results.add_result(run, tmp_path / "run", 1.0)
    record = results.finished(run)
    assert record["timing"] == {"peak_bytes": 8} and record["curve"][0] == [3, 0.25]
