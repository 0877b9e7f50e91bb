"""Charts: what is drawn, and that it is a picture."""

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.infer import charts


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were written."""
    figures = []
    write = charts._write
    monkeypatch.setattr(charts, "_write", lambda figure, path: (figures.append(figure), write(figure, path)))
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
