"""What a study writes in the end, from fabricated records: tables, plots, sheets, and what is missing for them."""

import numpy as np
import pytest
from PIL import Image
from records import plan, results_of

from attnseg_jax.plots import charts, segmentation
from attnseg_jax.study import report
from attnseg_jax.study.records import Results

# ml_collections reads config files that way.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


@pytest.fixture
def data(blocks_flags):
    """The overrides by which a config finds the data set `blocks`."""
    names = ("data.source", "data.name", "data.dir", "data.classes", "data.crop")
    return {name: blocks_flags[name] for name in names}


def maps(value=0, size=(24, 32)):
    return [(place, np.full(size, value)) for place in (0, 4)]


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_everything_there_is(data, tmp_path, monkeypatch):
    drawn = []
    comparison_sheet = segmentation.comparison_sheet

    def draw(labels, predictions, class_names, palette, path, *, titles, images):
        drawn.append((path.name, list(predictions), titles, images is None))
        return comparison_sheet(labels, predictions, class_names, palette, path, titles=titles, images=images)

    monkeypatch.setattr(segmentation, "comparison_sheet", draw)
    runs = plan(tmp_path, ["bad", "good"], **data)
    results, _ = results_of(runs, tmp_path, {"bad": 0.3, "good": 0.9}, maps=maps())
    text = report.write_report(runs, results, tmp_path / "out")
    assert names(tmp_path) == ["r.json", "r.md", "r.png", "r_bootstrap.png", "r_sheet.png"]
    assert names(tmp_path / "out") == ["sheet.png"]
    assert (tmp_path / "r.md").read_text() == text + "\n"
    heads = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    both = ["| good", "| bad"]
    better = [f"| better than, %: other {others}" for others in ("images", "images and seeds")]
    assert heads == ["| label", *both, "| IoU", *both, better[0], *both, better[1], *both, "| A", "| good"]
    assert drawn == [
        ("r_sheet.png", ["good", "bad"], ["b0", "b4"], True),
        ("sheet.png", ["good", "bad"], ["b0", "b4"], False),
    ]
    plain, full = (Image.open(path) for path in (tmp_path / "r_sheet.png", tmp_path / "out/sheet.png"))
    with plain, full:
        assert plain.width == full.width and plain.height < full.height
    # Tables and plots again, from the records alone.
    wanted = {name: (tmp_path / name).read_bytes() for name in ("r.md", "r.png", "r_bootstrap.png")}
    for name in wanted:
        (tmp_path / name).unlink()
    assert report.redraw(Results(tmp_path / "r.json")) == text
    assert wanted == {name: (tmp_path / name).read_bytes() for name in wanted}


def test_records_without_counts_give_what_they_gave(data, tmp_path):
    runs = plan(tmp_path, ["a", "b"], **data)
    results, _ = results_of(runs, tmp_path, {"a": 0.3, "b": 0.9}, counted=False, timed=False)
    text = report.write_report(runs, results, tmp_path / "out")
    assert names(tmp_path) == ["r.json", "r.md", "r.png"] and not (tmp_path / "out").exists()
    assert sum(line.startswith("|---") for line in text.splitlines()) == 1


def test_without_the_data_there_are_tables(data, tmp_path, caplog):
    runs = plan(tmp_path, ["a"], **{**data, "data.dir": "gone"})
    results, _ = results_of(runs, tmp_path, {"a": 0.3}, maps=maps())
    assert "| IoU |" in report.write_report(runs, results, tmp_path / "out")
    assert names(tmp_path) == ["r.json", "r.md", "r.png"]
    assert "no picture sheets, for want of the data" in caplog.text


@pytest.mark.thorough
def test_predictions_of_other_images(data, tmp_path, caplog):
    runs = plan(tmp_path, ["a"], **data)
    results, _ = results_of(runs, tmp_path, {"a": 0.3}, maps=maps(size=(12, 32)))
    report.write_report(runs, results, tmp_path / "out")
    assert "not of the same images" in caplog.text and not (tmp_path / "out").exists()


def test_counts_of_other_images(data, tmp_path, caplog):
    runs = plan(tmp_path, ["a", "b"], (0,), **data)
    results, _ = results_of(runs[:1], tmp_path, {"a": 0.3})
    more, _ = results_of(runs[1:], tmp_path / "b", {"b": 0.3})
    both = Results(tmp_path / "r.json")
    record = more.finished(runs[1])
    both.records = {**results.records, runs[1].key: {**record, "counts": {**record["counts"], **_fewer()}}}
    text = report.write_report(runs, both, tmp_path / "out")
    assert "| IoU |" in text and "better than" not in text
    assert "no bootstrap: 'b' was counted on other images than 'a'" in caplog.text


def _fewer():
    from records import counts

    return counts(0.3, 0, images=4).encode()


def test_nothing_is_finished(tmp_path):
    runs = plan(tmp_path, ["a"])
    text = report.write_report(runs, Results(tmp_path / "r.json"), tmp_path / "out")
    assert "- 2 more: not trained yet" in text and names(tmp_path) == ["r.md"]


def test_the_plot_has_what_the_records_know(data, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(charts, "write_png", lambda path, figure: seen.update({path.name: figure}))
    runs = plan(tmp_path, ["a", "b"], **data)
    results, _ = results_of(runs, tmp_path, {"a": 0.3, "b": 0.9})
    report.write_report(runs, results, tmp_path / "out")
    plot, matrix = seen["r.png"], seen["r_bootstrap.png"]
    assert [axes.get_xlabel() for axes in plot.axes] == [
        "seconds a training step", "seconds an image at evaluation", "step", "seconds of training",
    ]  # fmt: skip
    assert [line.get_label() for line in plot.axes[3].lines] == ["b", "a"]
    assert [text.get_text() for text in matrix.axes[0].texts] == ["100", "0"]
