"""Charts: what is drawn, and that it is a picture."""

import json

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from attnseg_jax.files import read_series
from attnseg_jax.plots import charts


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written."""
    figures = []
    write = charts.write_png
    monkeypatch.setattr(charts, "write_png", lambda path, figure: (figures.append(figure), write(path, figure)))
    return figures


def test_cost_against_size(drawn, tmp_path):
    panels = {"ms": {"a": [(512, 4.0), (128, 2.0)], "b": []}, "MiB": {"a": [(128, 0), (512, 3.0)], "b": [(128, 1.0)]}}
    charts.cost_against_size(panels, tmp_path / "cost.png")
    first, second = drawn[0].axes
    assert [(line.get_label(), *map(list, line.get_data())) for line in first.lines] == [("a", [128, 512], [2.0, 4.0])]
    assert [(line.get_label(), list(line.get_ydata())) for line in second.lines] == [("a", [3.0]), ("b", [1.0])]
    assert first.get_xscale() == first.get_yscale() == "log"
    # A mechanism looks the same in all panels.
    assert first.lines[0].get_color() == second.lines[0].get_color() != second.lines[1].get_color()
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b"]
    assert np.ptp(np.asarray(Image.open(tmp_path / "cost.png").convert("L"))) > 100


def test_score_against_cost(drawn, tmp_path):
    rows = [
        {"label": "a", "mious": [0.25, 0.75], "flops": 2e9, "temp": None, "curve": [(3, 0.1), (6, 0.5)]},
        {"label": "b", "mious": [0.5], "flops": None, "temp": None, "curve": []},
    ]
    charts.score_against_cost(rows, {"flops": ("GFLOP", 1e-9), "temp": ("MiB", 1.0)}, tmp_path / "study.png")
    cost, curves = drawn[0].axes  # nobody knows `temp`
    (bar,) = cost.containers
    assert bar.get_label() == "a" and np.array(bar[0].get_data()).ravel().tolist() == [2.0, 0.5]
    assert bar[2][0].get_segments()[0].tolist() == [[2.0, 0.25], [2.0, 0.75]]
    assert cost.get_xlabel() == "GFLOP"
    assert [line.get_label() for line in curves.lines] == ["a"]
    assert (tmp_path / "study.png").read_bytes()[1:4] == b"PNG"


def test_every_name_is_there_and_covers_no_other(drawn, tmp_path):
    """Also those of points that lie on each other: nine in a heap, one at each edge."""
    rng = np.random.default_rng(0)
    means = [*(0.5 + 0.004 * rng.standard_normal(9)), 0.9, 0.1]
    costs = [*(2 + 0.02 * rng.standard_normal(9)), 9.0, 1.0]
    rows = [
        {"label": f"system_{i}", "mious": [mean - 0.05, mean + 0.05], "cost": cost, "curve": []}
        for i, (mean, cost) in enumerate(zip(means, costs))
    ]
    charts.score_against_cost(rows, {"cost": ("cost", 1.0)}, tmp_path / "study.png")
    axes = drawn[0].axes[0]
    names = {text.get_text(): text for text in axes.texts if text.get_text()}
    assert sorted(names) == sorted(row["label"] for row in rows)
    boxes = [Text.get_window_extent(text) for text in names.values()]  # without the line that leads to it
    frame = axes.get_window_extent()
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        for other in boxes[:i]:
            assert min(box.x1, other.x1) <= max(box.x0, other.x0) or min(box.y1, other.y1) <= max(box.y0, other.y0)
    # The lone ones stand beside their points, and no name is far away from its own.
    places = axes.transData.transform(list(zip(costs, means)))
    far = [
        np.hypot(*(Text.get_window_extent(names[f"system_{i}"]).get_points().mean(0) - places[i])) for i in range(11)
    ]
    assert max(far[-2:]) < 60 and max(far) < 300


def test_curves_over_time_are_another_panel(drawn, tmp_path):
    rows = [
        {"label": "a", "mious": [0.5], "flops": 2e9, "curve": [(3, 0.5)], "clock": [(7.5, 0.5)]},
        {"label": "b", "mious": [0.5], "flops": 3e9, "curve": [(3, 0.25)], "clock": []},
    ]
    costs = {"flops": ("GFLOP", 1e-9)}
    charts.score_against_cost(rows, costs, tmp_path / "study.png")
    _, steps, clock = drawn[0].axes
    assert (steps.get_xlabel(), clock.get_xlabel()) == ("step", "seconds of training")
    # One system may take fifty times as long as another.
    assert (steps.get_xscale(), clock.get_xscale()) == ("linear", "log")
    assert [line.get_label() for line in steps.lines] == ["a", "b"]
    assert [(line.get_label(), line.get_xydata().tolist()) for line in clock.lines] == [("a", [[7.5, 0.5]])]
    # No more than three beside each other; what is left of the last line stays empty.
    charts.score_against_cost([{**rows[0], "ms": 1.0}], {**costs, "ms": ("ms", 1.0)}, tmp_path / "study.png")
    assert len(drawn[1].axes) == 4 and len({axes.get_position().y0 for axes in drawn[1].axes}) == 2


def test_confidence_matrix(drawn, tmp_path):
    pairs = {("a", "b"): 0.975, ("b", "a"): 0.025, ("a", "c"): 0.5, ("c", "a"): 0.5, ("b", "c"): 0.0, ("c", "b"): 1.0}
    few = {("a", "b"): 1.0, ("b", "a"): 0.0}
    given = {"other images": pairs, "other images and seeds": few}
    charts.confidence_matrix(["a", "b", "c"], given, tmp_path / "matrix.png")
    axes, second, _ = drawn[0].axes
    assert (axes.get_title(), second.get_title()) == ("other images", "other images and seeds")
    assert {text.get_position(): text.get_text() for text in second.texts} == {(1, 0): "100", (0, 1): "0"}
    found = {text.get_position(): text.get_text() for text in axes.texts}
    assert found == {(1, 0): "98", (0, 1): "2", (2, 0): "50", (0, 2): "50", (2, 1): "0", (1, 2): "100"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    assert (tmp_path / "matrix.png").read_bytes()[1:4] == b"PNG"


def test_what_the_curves_of_a_training_show(drawn, tmp_path):
    steps = [10, 20, 30]
    series = {
        "loss": ([5, 10, 15], [3.0, 2.0, 1.5]), "val_cross_entropy": (steps, [2.5, 1.9, 2.0]),
        "miou": ([5, 10, 15], [0.0, 0.5, 1.0]), "val_miou": (steps, [0.0, 0.5, 1.0]),
        "val_pixel_accuracy": (steps, [0.5, 1.0, 1.0]), "learning_rate": ([5, 10, 15], [0.1, 0.05, 0.0]),
    }  # fmt: skip
    series |= {f"val_iou/c{k}": (steps, [0.0, k / 20, (11 - k) / 11]) for k in range(12)}
    charts.training_curves(series, tmp_path / "curves.png")
    loss, score, classes, rate = drawn[0].axes
    given = {line.get_label(): list(line.get_ydata()) for line in loss.lines}
    assert given == {"train loss": [3.0, 2.0, 1.5], "val cross-entropy": [2.5, 1.9, 2.0]}
    assert [line.get_label() for line in score.lines] == ["train mIoU", "val mIoU", "val pixel accuracy"]
    assert len(classes.lines) == 12 and len(rate.lines) == 1
    # What is 0 or 1 is whole, its marker and half of its width too.
    for axes in (score, classes):
        assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 1 and not any(x.get_clip_on() for x in axes.lines)
    # The lowest in the end, the lowest first.
    names = [text.get_text() for text in classes.get_legend().get_texts()]
    assert names == [f"{(11 - k) / 11:.2f} c{k}" for k in range(11, 1, -1)]
    colors = {line.get_label().split()[1]: line.get_color() for line in classes.lines}
    assert colors["c0"] == colors["c1"] and len({str(color) for color in colors.values()}) == 11


def test_curves_are_drawn_from_a_torn_file(tmp_path):
    def count(picture, color):
        return (picture == np.array(color, np.uint8)).all(-1).sum()

    path = tmp_path / "metrics.jsonl"
    lines = [{"step": s, "loss": 2 / s, "miou": s / 50, "learning_rate": 1e-3 / s} for s in range(1, 40)]
    lines += [{"step": 20, "val_miou": 0.3, "val_pixel_accuracy": 0.8, "val_iou/sky": None}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "lo')
    charts.training_curves(read_series(path), tmp_path / "curves.png")
    drawn = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))
    path.write_text("")
    charts.training_curves(read_series(path), tmp_path / "empty.png")
    empty = np.asarray(Image.open(tmp_path / "empty.png").convert("RGB"))
    loss, val_miou = (0x30, 0x63, 0x8E), (0xD1, 0x49, 0x5B)
    for color in (loss, val_miou):
        assert count(drawn, color) > 10
        assert count(empty, color) == 0
