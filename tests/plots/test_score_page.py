"""The report's page of made-up scores: what it says, that it needs no network, and what its script does."""

import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.evaluation.counts import ImageCounts
from attnseg_jax.evaluation.mistakes import Mistakes
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.models.records import AttentionMap
from attnseg_jax.plots import score_page
from attnseg_jax.plots.explained import Explained
from attnseg_jax.plots.look import Grid, atlas, look_data, looked_at, pixel_records

NAMES, PALETTE = ("sky", "road </script>"), np.array([[10, 20, 200], [90, 90, 90]], np.uint8)
COVERED = (32, 48)


def record():
    """Every query of 4 x 6 attends to the position after its own, on the map of an image of 26 x 40, padded."""
    weights = np.roll(np.eye(24, dtype=np.float32), 1, 1)
    return AttentionMap(np.stack([weights, weights])[None], query_size=(4, 6), key_size=(4, 6))


def made_page():
    rng = np.random.default_rng(0)
    truth = np.zeros((26, 40), np.uint8)
    truth[13:] = 1
    prediction = np.roll(truth, 1, 0)
    sure = np.full(truth.shape, 0.75)
    look = look_data({"self0": record(), "self1": record()}, COVERED, truth, prediction, sure)
    image = rng.integers(0, 255, (26, 40, 3)).astype(np.uint8)
    scores = Scores.from_confusion(np.array([[480, 40], [40, 480]]))
    counts = np.array([[[480, 40, 40], [480, 40, 40]]])
    mistakes = Mistakes(2, lambda index: truth.shape)
    mistakes({"index": [0], "label": truth[None]}, prediction[None], None)
    return score_page.page(
        "run <b>",
        dataclasses.replace(scores, images=ImageCounts(counts, counts)),
        NAMES,
        PALETTE,
        interval=(0.8, 0.9),
        charts={},
        mistakes=mistakes,
        suspects=[("a suspect", Image.new("RGB", (8, 8)))],
        images=[Explained("one", image, truth, prediction, sure, look)],
        facts={"commit": "abc"},
    )


def test_what_each_point_attends_to():
    grid = Grid.of((26, 40), 12)
    assert (grid.rows, grid.columns) == (2, 4) and grid.points.tolist()[:2] == [[6, 5], [6, 15]]
    maps = looked_at(record(), grid, COVERED)
    # Row 6, column 15 of 32 x 48 is position (0, 1) of 4 x 6; row 19, column 35 is (2, 4).
    assert maps.shape == (8, 4, 6)
    assert np.unravel_index(maps[1].argmax(), (4, 6)) == (0, 2) and maps[1].sum() == pytest.approx(1)
    assert np.unravel_index(maps[7].argmax(), (4, 6)) == (2, 5)
    assert atlas(maps, grid.columns).shape == (8, 24)
    channels = AttentionMap(np.ones((1, 1, 4, 4)))
    assert list(pixel_records({"a0": channels, "b0": record(), "b1": record()})) == ["b0", "b1"]


def test_large_maps_become_coarse():
    n = 64
    weights = np.zeros((1, 1, 1, n * n), np.float32)
    weights[..., n + 5], weights[..., -1] = 0.25, 0.75
    found = looked_at(AttentionMap(weights, query_size=(1, 1), key_size=(n, n)), Grid(1, 1, (9, 9)), (9, 9))
    # Three by three positions become one.
    assert found.shape == (1, 22, 22) and found[0, 0, 1] == 0.25 and found[0, 21, 21] == 0.75


def test_the_page():
    page = made_page()
    assert page.count("<h1>") == 1 and "run &lt;b&gt;" in page and 'name="viewport"' in page
    assert not re.search(r"https?://|<link|src=\"(?!data:)|<script src", page)
    # Of 40 wrong pixels of the shift and 40 of the row that came round, those are far from the other class.
    assert "7.7% of its pixels are wrong: boundary 50%, invented 50%." in page
    assert page.count("a suspect") == 2 and "sky as road &lt;/script&gt;" in page
    # Two scripts of data and one that runs; a name of a class ends none of them.
    assert page.count("<script") == page.count("</script>") == 3
    assert 'aria-live="polite"' in page and page.count("tabindex") == 1


PROBE = """<script>addEventListener("load", async () => {
  const said = () => document.querySelector("output").textContent, wait = () => new Promise((f) => setTimeout(f, 200));
  const stage = document.querySelector(".stage"), found = [];
  const press = (key) => stage.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  await wait(); found.push(said());
  for (const key of ["ArrowUp", "ArrowLeft", "ArrowLeft"]) press(key);
  await wait(); found.push(said());
  const truth = document.querySelectorAll(".panels img")[1], box = truth.getBoundingClientRect();
  truth.dispatchEvent(new MouseEvent("click", {clientX: box.right - 2, clientY: box.bottom - 2}));
  await wait(); found.push(said());
  found.push(document.documentElement.scrollWidth <= innerWidth, !document.querySelector(".look").hidden);
  document.title = found.join("|");
});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(tmp_path, width):
    """Keys and clicks move the point, what it attends to is said, and nothing is wider than the window."""
    (tmp_path / "index.html").write_text(made_page() + PROBE)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"--window-size={width},900", "--virtual-time-budget=4000", "--dump-dom"]
    run = subprocess.run([*command, str(tmp_path / "index.html")], capture_output=True, text=True, timeout=120)
    first, keys, click, *right = re.search(r"<title>(.*?)</title>", run.stdout)[1].split("|")
    assert right == ["true", "true"]
    # Of the positions of 8 x 8 pixels the next one to the right, by its middle; what lies outside is the border.
    assert first.startswith("at row 13, column 20: true road") and first.endswith("to row 12, column 28")
    assert keys == "at row 12, column 17: true sky, predicted sky, 75 % sure; attends most to row 12, column 28"
    assert click.startswith("at row 25, column 39: true road") and click.endswith("to row 25, column 39")
