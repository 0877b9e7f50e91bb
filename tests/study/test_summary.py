"""Tables of a study: means by hand, columns that appear where they are known, classes, the bootstrap."""

import itertools

import numpy as np
import pytest
from records import CLASSES, plan, results_of

from attnseg_jax.study import bootstrap
from attnseg_jax.study.records import Results
from attnseg_jax.study.summary import classes_to_markdown, comparisons, comparisons_to_markdown, summarize, to_markdown

# ml_collections reads config files that way.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


def test_summaries(tmp_path):
    """By hand: two labels, one of them with a seed that has no score and a curve of its own."""
    runs = plan(tmp_path, ["a"]) + plan(tmp_path, ["b"], (0,), **{"model.attention.name": "none"})
    results = Results(tmp_path / "r.json")
    scores = [(0.25, [[1, 0.25], [2, 0.5]]), (None, [[2, 0.25]]), (0.75, [])]
    for run, (miou, curve) in zip(runs, scores):
        result = {"miou": miou, "pixel_accuracy": 0.5}
        results.records[run.key] = {"seed": run.seed, "seconds": None, "result": result, "curve": curve}
    results.records[runs[0].key]["seconds"] = 30.0
    first, second = summarize(runs, results)
    assert (first["label"], first["miou"], first["spread"], first["seconds"]) == ("b", 0.75, None, None)
    assert (second["label"], second["miou"], second["spread"], second["seconds"]) == ("a", 0.125, 0.25, 30.0)
    assert second["curve"] == [(2, 0.375)] and second["flops"] is None and second["seeds"] == [0, 1]
    assert second["clock"] == [] and second["boundary_miou"] is None and second["counts"] == []


def test_what_was_counted_and_timed(tmp_path):
    """Two seeds, of which only one is timed: its seconds are the label's."""
    runs = plan(tmp_path, ["a"])
    results, found = results_of(runs, tmp_path, {"a": 0.5})
    del results.records[runs[1].key]["timing"]
    (row,) = summarize(runs, results)
    assert (row["step_seconds"], row["image_seconds"], row["peak_bytes"]) == (3.0, 0.5, 2**21)
    assert [step for step, _ in row["curve"]] == [3, 6]
    near = [counts.boundary_iou.mean() for counts in found.values()]
    assert row["boundary_miou"] == pytest.approx(np.mean(near))
    ious = np.mean([counts.iou for counts in found.values()], 0)
    assert list(row["ious"].values()) == pytest.approx(ious.tolist()) and len(row["ious"]) == CLASSES


def test_the_curve_over_time(tmp_path):
    """Steps by the mean of the paces, 3 and 5 s; older records have seconds of their own."""
    runs = plan(tmp_path, ["a"])
    results, _ = results_of(runs, tmp_path, {"a": 0.5})
    for run, pace in zip(runs, (3.0, 5.0)):
        results.records[run.key]["curve"] = [[3, 0.25, 99.0], [6, 0.5, 100.0]]
        results.records[run.key]["timing"] = {"step_seconds": pace}
    (row,) = summarize(runs, results)
    assert row["clock"] == [(12.0, 0.25), (24.0, 0.5)] and row["curve"] == [(3, 0.25), (6, 0.5)]


def test_when_the_times_were_taken(tmp_path):
    runs = plan(tmp_path, ["a", "b"])
    results, _ = results_of(runs, tmp_path, {"a": 0.5, "b": 0.3})

    def last():
        return to_markdown(summarize(runs, results)).splitlines()[-1].removeprefix("These times: ")

    assert last() == "of all systems those of the runs, each on the machine of its day."
    results.add_timing(runs[:2], {"step_seconds": 2.0, "together": "2026-11-27"})
    one, other = (
        "of a one after another on one machine, 2026-11-27",
        "of b those of the runs, each on the machine of its day.",
    )
    assert last() == f"{one}; {other}"
    results.add_timing(runs[2:], {"step_seconds": 2.0, "together": "2026-11-27"})
    assert last() == "of all systems one after another on one machine, 2026-11-27."
    for run in runs:
        results.records[run.key]["timing"] = {"peak_bytes": 2}
    assert last().startswith("Peak MiB")


def test_times_of_runs_are_not_averaged_with_those_taken_together(tmp_path):
    """A third seed finished later, on a slower machine; of two calls the later one counts."""
    runs = plan(tmp_path, ["a"], (0, 1, 2))
    results, _ = results_of(runs, tmp_path, {"a": 0.5})
    results.records[runs[0].key]["timing"] = {"step_seconds": 5.0, "peak_bytes": 9, "together": "2026-11-26"}
    results.records[runs[2].key]["timing"] = {"step_seconds": 2.0, "image_seconds": 1.0, "together": "2026-11-27"}
    (row,) = summarize(runs, results)
    assert (row["step_seconds"], row["image_seconds"]) == (2.0, 1.0)
    # The second seed's is 2 MiB; the most that a process held does not depend on the day.
    assert row["peak_bytes"] == (9 + 2**21) / 2
    assert row["together"] == "2026-11-27" and row["clock"][0] == (6.0, 0.25)


def test_columns_appear_where_they_are_known(tmp_path):
    runs = plan(tmp_path, ["a"], (0,)) + plan(tmp_path, ["old"], (2,))
    results, _ = results_of(runs[:1], tmp_path, {"a": 0.5})
    results.records[runs[1].key] = {
        "seed": 2, "seconds": 9.0, "result": {"miou": 0.125, "pixel_accuracy": 0.5}, "curve": [],
    }  # fmt: skip
    lines = to_markdown(summarize(runs, results)).splitlines()
    titles, a, old = ([cell.strip() for cell in lines[i].strip("|").split("|")] for i in (0, 2, 3))
    assert titles == [
        "label", "seeds", "mIoU", "spread", "pixel accuracy", "boundary mIoU", "parameters", "GFLOP", "MiB",
        "peak MiB", "s a step", "s an image", "seconds",
    ]  # fmt: skip
    assert a[-4:] == ["2", "3", "0.5", "30"]
    assert old == ["old", "1", "0.1250", "-", "0.5000", *["-"] * 7, "9"]
    assert any(line.startswith("Peak MiB:") for line in lines)
    assert not any("peak" in line.lower() for line in to_markdown(summarize(runs[1:], results)).splitlines())


def test_classes(tmp_path):
    runs = plan(tmp_path, ["a", "b"], (0,))
    results, found = results_of(runs, tmp_path, {"a": 0.9, "b": 0.3})
    head, _, a, b = classes_to_markdown(summarize(runs, results)).splitlines()
    assert head == "| IoU | c0 | c1 | c2 | c3 | c4 |"
    for line, run in zip((a, b), runs):
        cells = line.strip("| ").split(" | ")
        assert cells == [run.entry.label, *(f"{value:.3f}" for value in found[run.name].iou)]


def test_comparisons(tmp_path):
    """A label without counts is left out; the seeds of the others are averaged."""
    runs = plan(tmp_path, ["good", "bad"])
    results, found = results_of(runs, tmp_path, {"good": 0.9, "bad": 0.3})
    rows = summarize(runs, results)
    rows.append({**rows[0], "label": "old", "counts": []})
    pairs = comparisons(rows)
    regions = {
        label: [c.everywhere for name, c in found.items() if name.startswith(label)] for label in ("good", "bad")
    }
    assert pairs == bootstrap.compare(regions) and len(regions["good"]) == 2
    assert pairs["good", "bad"].difference == pytest.approx(rows[0]["miou"] - rows[1]["miou"])
    lines = comparisons_to_markdown(pairs).splitlines()
    assert lines[0] == "| better than, %: other images | good | bad |" and lines[2] == "| good |  | 100.0 |"
    assert lines[5] == "| better than, %: other images and seeds | good | bad |"
    assert lines[-1].startswith("| good | bad | +0.") and lines[-1].split(" | ")[5] == "100.0"


def test_comparisons_where_one_has_one_seed():
    spread, no = bootstrap.Interval(-0.1, 0.3, 0.75), None
    pairs = {
        pair: bootstrap.Comparison(0.1, spread, spread if set(pair) == {"a", "b"} else no)
        for pair in itertools.permutations("abc", 2)
    }
    text = comparisons_to_markdown(pairs)
    assert text.count("| a |  | 75.0 | 75.0 |") == 1 and text.count("| a |  | 75.0 | - |") == 1
    assert "\n| a | c | +0.1000 | -0.1000 | +0.3000 | 75.0 | - | - | - |" in text
    assert "other images and seeds" not in comparisons_to_markdown(
        {("a", "c"): pairs["a", "c"], ("c", "a"): pairs["c", "a"]}
    )
