"""attnseg-doctor as a person calls it: from a folder to a config that trains."""

import json

# It defines flags of the process, which belong to no command.
import grain  # noqa: F401
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
SCRIPT = "attnseg_jax/cli/doctor.py"


@pytest.fixture
def cells(tmp_path):
    """Photographs x.jpg beside masks x.png of 0 and 255, one of which has another size."""
    rng = np.random.default_rng(0)
    root = tmp_path / "cells 1"
    root.mkdir()
    for i in range(20):
        mask = np.kron(rng.integers(0, 2, (2, 4)), np.ones((12, 8), int))
        image = 60 + 120 * mask[..., None] + rng.normal(0, 8, (24, 32, 3))
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / f"x{i}.jpg", quality=95)
        Image.fromarray((255 * mask).astype(np.uint8)[: 20 if i == 7 else 24]).save(root / f"x{i}.png")
    return root


def test_from_a_folder_to_a_trained_model(cells, call, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in cells.iterdir()}
    code, out, err = call(SCRIPT, cells, "--report=report", "--browse=sheet.png")
    assert code == 0, err
    # A row before and after each of four transforms, of four samples.
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 240 and sheet.height > 5 * 180
    assert "layout: flat, {stem}.jpg with {stem}.png" in out and "classes: background (0), foreground (255)" in out
    assert (
        "1 mask of another size than the image: left out; " in out and "\n    x7.png: 32x20, its image 32x24\n" in out
    )
    assert out.splitlines()[-1] == "train: attnseg-train --config=cells_1.py --workdir=runs/cells_1"
    found = json.loads((tmp_path / "report/report.json").read_text())
    assert found["layout"]["name"] == "flat" and found["ignored"] == []
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/png") == 6 + 3 and "config.data.ids = ((0, 0), (255, 1))" in page
    assert {path: path.stat().st_mtime_ns for path in cells.iterdir()} == before
    small = {
        "train.batch_size": 8, "eval.batch_size": 8, "train.steps": 2, "train.eval_every": 2, "eval.samples": 1,
        "model.backbone.tiny.width": 8, "model.attention.name": "none", "model.decoder.fcn.channels": 8,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in small.items()]
    code, out, err = call("train.py", "--config=cells_1.py", "--workdir=run", *flags)
    assert code == 0, err
    assert "validation mIoU" in out and "foreground" in out


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "which folder? attnseg-doctor path/to/data"),
        (["--browse=x.png", "--config=none.py"], "none.py"),
        (["{data}", "--config=default"], "--config is drawn by --browse=sheet.png, without a folder"),
        (["--data=none"], "there is no such folder"),
        (["{data}", "--output=x.txt"], "--output=x.txt must end in .py"),
        (["{data}", "--output=there.py"], "--output=there.py is there already: choose another name, or --overwrite"),
        (["{data}", "--output=there.py/x.py"], "--output=there.py/x.py cannot be used"),
        (["{data}", "--report=there.py"], "--report=there.py cannot be used"),
        (["{data}", "--threads=-1"], "--threads=-1 must be at least 0"),
        (["{data}", "--outptu=x.py"], "unknown flag --outptu: did you mean 'output'?"),
        (["{data}", "more"], "flags are written --name=value"),
    ],
)
def test_mistakes_end_in_one_line(flags, words, cells, call, tmp_path):
    (tmp_path / "there.py").write_text("")
    code, out, err = call(SCRIPT, *(flag.format(data=cells) for flag in flags))
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert not (tmp_path / "cells_1.py").exists()


def test_what_cannot_be_trained_is_told_and_no_config_written(cells, call, tmp_path):
    for path in cells.glob("*.png"):
        Image.fromarray(np.zeros((24, 32), np.uint8)).save(path)
    code, out, err = call(SCRIPT, f"--data={cells}", "--report=report")
    assert code == 2 and "no config is written: " in err and "there is nothing to learn" in err
    assert "images: 20 JPEG RGB" in out and (tmp_path / "report/report.html").exists()
    assert not (tmp_path / "cells_1.py").exists()
