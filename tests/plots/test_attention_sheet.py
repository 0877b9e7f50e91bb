import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from attnseg_jax.models.records import AttentionMap, DotProductMap, GateMap
from attnseg_jax.plots import panels
from attnseg_jax.plots.attention_sheet import Scene, attention_sheet

NAMES = ("sky", "road", "tram")
PALETTE = np.array([[10, 200, 30], [200, 10, 250], [20, 30, 220]], np.uint8)
SIZE = (3, 5)
N = 15


def _scene(*points):
    prediction = np.zeros((13, 17), np.uint8)
    prediction[:, 9:] = 2
    return Scene(np.full((13, 17, 3), 90, np.uint8), points, prediction, NAMES, PALETTE, "a scene")


def _soft(*shape):
    return jax.nn.softmax(jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32))


def _texts(monkeypatch):
    """All words of the pages drawn from now on, by page."""
    pages, page = [], panels.page

    def spy(header, rows, *rest):
        titles = [panel.title for row in rows for panel in row.panels]
        pages.append([header, *(row.caption for row in rows), *titles])
        return page(header, rows, *rest)

    monkeypatch.setattr(panels, "page", spy)
    return pages


FORMS = {
    "pixels": (AttentionMap(_soft(1, 2, N, N), None, SIZE, SIZE), ["3 x 5 positions look at 3 x 5", "head 2, max"]),
    "product": (
        DotProductMap(_soft(1, N, 1, 4), _soft(1, 2, 1, 4), query_size=SIZE, key_size=(1, 2)),
        ["3 x 5 positions look at 1 x 2", "head 1, max", "entropy"],
    ),
    "sparse": (
        AttentionMap(_soft(1, 1, N, 4), np.arange(N * 4).reshape(N, 4) % 16 - 1, SIZE, SIZE),
        ["look at 4 positions each, of 3 x 5"],
    ),
    "signed": (
        AttentionMap(_soft(1, 1, N, N) - 0.05, None, SIZE, SIZE),
        ["where the point (y=2, x=11, predicted tram)"],
    ),
    "classes": (AttentionMap(_soft(1, 2, 3, N), key_size=SIZE), ["3 regions look at 3 x 5", "tram, max", "2 heads"]),
    "to_classes": (AttentionMap(_soft(1, 1, N, 3), query_size=SIZE), ["which regions the point", "road, max"]),
    "bases": (AttentionMap(_soft(1, 1, N, 40), query_size=SIZE), ["32 largest of 40", "the 27 of 40"]),
    "channels": (AttentionMap(_soft(1, 1, 6, 6)), ["6 channels or regions look at 6"]),
    "gate": (GateMap(jnp.linspace(0, 1, 22).reshape(1, 1, 1, 22)), ["gate of 22 channels", "3 below 0.1, 3 above 0.9"]),
    "places": (GateMap(_soft(1, 3, 5, 1)), ["gate of 3 x 5 positions"]),
    "both": (GateMap(_soft(1, 3, 5, 4)), ["mean of 4 channels"]),
}


def test_a_dark_image_is_brightened_and_the_header_says_so(tmp_path, monkeypatch):
    pages = _texts(monkeypatch)
    dark = dataclasses.replace(_scene((2, 11)), image=np.full((13, 17, 3), 17, np.uint8))
    path = attention_sheet(dark, {"places0": FORMS["places"][0]}, tmp_path)[-1]
    assert pages[0][0] == "a scene; drawn 15 times as bright"
    with Image.open(path) as picture:
        # The image itself is white now; the edges of letters have some of that gray.
        assert (np.asarray(picture.convert("RGB")) == 17).all(-1).sum() < 1000


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_map_is_drawn(form, tmp_path, monkeypatch):
    record, words = FORMS[form]
    pages = _texts(monkeypatch)
    paths = attention_sheet(_scene((2, 11)), {f"{form}0": record}, tmp_path / "new")
    assert [path.name for path in paths] == [f"{form}0.png", "sheet.png"] and all(p.is_file() for p in paths)
    assert pages[0][0] == "a scene" and pages[1][0].startswith(f"{form}0: ")
    for word in words:
        assert any(word in text for text in pages[1]), pages[1]
    # Weights that are no shares have no entropy.
    assert any("entropy" in text for text in pages[1]) == (
        form in {"pixels", "product", "sparse", "to_classes", "bases"}
    )
    part, sheet = (np.asarray(Image.open(path)) for path in paths)
    assert len(sheet) > len(part) > 100


def test_a_sheet_holds_all_maps_and_a_row_for_each_point(tmp_path, monkeypatch):
    pages = _texts(monkeypatch)
    attention = {f"self{i}": FORMS["pixels"][0] for i in range(2)}
    paths = attention_sheet(_scene((2, 11), (12, 0)), attention, tmp_path)
    assert [path.name for path in paths] == ["self0.png", "self1.png", "sheet.png"]
    pictures = [np.asarray(Image.open(path)) for path in paths]
    below = pictures[2][-pictures[1].shape[0] :, : pictures[1].shape[1]]
    np.testing.assert_array_equal(below, pictures[1])
    assert "where point 2 (y=12, x=0, predicted sky) looks" in pages[1]


def test_the_hottest_panel_part_is_where_the_weight_is(tmp_path):
    """A single weight of 1 at the lower right of a 3 x 5 map, looked at from the upper left."""
    weights = jnp.zeros((1, 1, N, N)).at[:, :, :, 14].set(1.0)
    path, _ = attention_sheet(_scene((0, 0)), {"x0": AttentionMap(weights, None, SIZE, SIZE)}, tmp_path)
    picture = np.asarray(Image.open(path)).astype(int)
    left, right = 36 + 336 + 17, 36 + 2 * 336 + 17  # margin, panels of 2.8 inches and gaps, at 120 dpi
    panel = picture[:, left:right]
    # Yellow of the colour map's upper end over gray.
    hot = (panel[..., 0] > 190) & (panel[..., 1] > 180) & (panel[..., 2] < panel[..., 1] - 30)
    y, x = np.nonzero(hot)
    assert len(y) == pytest.approx(336 / 5 * 336 * 13 / 17 / 3, rel=0.1)
    assert x.min() == pytest.approx(336 * 4 / 5, abs=4) and x.max() == pytest.approx(336, abs=4)
    assert np.ptp(y) == pytest.approx(336 * 13 / 17 / 3, abs=3)


def test_a_map_that_covers_more_than_the_image():
    """Its cells stand over the pixels that they are of, and what lies outside of the image is not drawn."""
    axes = Figure().subplots()
    panels.heat(np.zeros((57, 75, 3), np.uint8), np.ones((4, 5)), panels.Scale("", ""), (0, 1), (), (64, 80))(axes)
    image, heat = axes.images
    assert image.get_extent() == [0, 75, 57, 0] and heat.get_extent() == [0, 80, 64, 0]
    assert axes.get_xlim() == (0, 75) and axes.get_ylim() == (57, 0)
