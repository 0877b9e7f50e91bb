"""Formats that other interpreters write and run: what each makes of every part, and what it says where it cannot.

The packages are looked for in this interpreter, or in those of ATTNSEG_ONNX_PYTHON and ATTNSEG_TENSORFLOW_PYTHON.
"""

import functools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from export_cases import CASES, NEEDS
from PIL import Image
from warm_python import WarmPython
from workdirs import save_random_run

from attnseg_jax.errors import UserError
from attnseg_jax.inference.export import elsewhere, exporting, proof
from attnseg_jax.inference.export.formats import FORMATS

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "export.md"


def python_for(form):
    """The interpreter that has the packages of a format; the test is left out where there is none."""
    asked = FORMATS[form]
    python = os.environ.get(f"ATTNSEG_{asked.extra.upper()}_PYTHON", sys.executable)
    try:
        elsewhere.versions(python, form, asked.needs, asked.extra)
    except UserError as error:
        pytest.skip(str(error))
    return python


def smooth(folder, *sizes):
    """Pictures whose features differ from place to place; returns a pattern for them."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        low = np.random.default_rng(number).uniform(0, 255, (*(-(-n // 16) + 1 for n in size), 3))
        image = low.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]].astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
    return f"{folder}/*.png"


@pytest.mark.parametrize(
    "form, precision",
    [(form, precision) for form in FORMATS if FORMATS[form].needs for precision in FORMATS[form].precisions],
)
def test_the_command(form, precision, make_config, call, tmp_path):
    python = python_for(form)
    workdir = save_random_run(make_config(optimizer__ema_decay=0.0), tmp_path / "run")
    code, printed, error = call(
        "attnseg_jax/cli/export.py", f"--model={workdir}", f"--format={form}", f"--output={tmp_path / 'out'}",
        f"--python={python}", f"--precision={precision}", f"--check={smooth(tmp_path / 'photos', (48, 64))}",
    )  # fmt: skip
    assert code == 0, error
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {card["file"], "card.json", "README.md", "run.py"}
    assert card["proof"]["pixels"] >= 48 * 64 and set(card["made_with"]) == set(FORMATS[form].needs)
    if precision == "float32":
        assert card["proof"]["differing"] == 0
    assert f"compared on {card['proof']['pictures']} pictures" in printed


def refused():
    """(format, part, name) of the page's table of what is refused."""
    rows = re.findall(r"^\| `(\w+)` \| (backbone|attention|decoder) \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    return {(form, part, name) for form, part, names in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.fixture(scope="module")
def warm():
    """An interpreter of a format with its packages loaded, in the place of one for each script."""
    held = {}

    def of(form):
        needs = tuple(name for name in FORMATS[form].needs if name != "PIL")
        python = python_for(form)
        if python not in held:
            held[python] = WarmPython(python, needs)
        return python, held[python]

    yield of
    for one in held.values():
        one.end()


@pytest.fixture(scope="module")
def random_run(make_config, tmp_path_factory):
    """A run of random numbers of a part, and pictures; the same for every format."""
    folder = tmp_path_factory.mktemp("runs")
    photos = smooth(folder / "photos", (64, 96))

    @functools.cache
    def of(part, name):
        return save_random_run(_config(make_config, part, name), folder / f"{part}-{name}"), photos

    return of


def _config(make_config, part, name):
    changes = {"attention__name": "none", "backbone__name": "resnet18" if part == "decoder" else "tiny"}
    changes |= {f"{part}__name": name, **NEEDS.get(name, {})}
    changes = {f"model__{key}": value for key, value in changes.items()}
    return make_config(data__crop=(64, 96), optimizer__ema_decay=0.0, **changes)


@pytest.mark.parametrize("form", ["onnx", "tflite", "savedmodel"])
@pytest.mark.parametrize("part, name", CASES, ids=["-".join(case) for case in CASES])
def test_every_part(form, part, name, warm, random_run, monkeypatch, tmp_path):
    """It is the model, or refused in one line with the reason."""
    python, loaded = warm(form)
    for module in (elsewhere, proof):
        monkeypatch.setattr(module, "subprocess", loaded)
    workdir, photos = random_run(part, name)
    try:
        _, card = exporting.export(workdir, form, tmp_path / "out", python=python, minutes=10, compare=photos)
    except UserError as error:
        print("FOUND", form, part, name, "refused", error)
        assert not (tmp_path / "out").exists() and (form, part, name) in refused(), error
    else:
        print("FOUND", form, part, name, card["input"], card["proof"], card["fixed"])
        assert (form, part, name) not in refused()
