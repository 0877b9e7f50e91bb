"""Every backbone, mechanism and decoder as a program: what sizes it takes, and that it is the model there."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from export_cases import CASES, NEEDS
from jax import export
from workdirs import save_random_run

from attnseg_jax import Predictor
from attnseg_jax.inference.export import stablehlo
from attnseg_jax.models import ATTENTION, BACKBONES, DECODERS
from attnseg_jax.models.build import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "export.md"
TABLES = {"backbone": BACKBONES, "attention": ATTENTION, "decoder": DECODERS}
COLUMNS = ("any size", "at least a size", "one size")


def documented():
    """Names of the table in the page by part and column."""
    rows = re.findall(r"^\| (backbone|attention|decoder|kind) \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    return {part: [re.findall(r"`(\w+)`", cell) for cell in cells.split("|")] for part, cells in rows}


def test_the_page_knows_every_part():
    found = documented()
    kinds = [name for name, kind in KINDS.items() if not kind.takes_regions]
    for part, table in {**TABLES, "kind": kinds}.items():
        assert sorted(name for cell in found[part] for name in cell) == sorted(table), part


@pytest.mark.slow
@pytest.mark.parametrize("part, name", CASES, ids=["-".join(case) for case in CASES])
def test_every_part(part, name, make_config, tmp_path):
    """At the size of the training crop, and at another where it is taken."""
    changes = {"attention__name": "none", "backbone__name": "resnet18" if part == "decoder" else "tiny"}
    changes |= {f"{part}__name": name, **NEEDS.get(name, {})}
    changes = {f"model__{key}": value for key, value in changes.items()}
    config = make_config(data__crop=(64, 96), optimizer__ema_decay=0.0, **changes)
    predictor = Predictor(save_random_run(config, tmp_path / "run"), batch_size=1)
    made = stablehlo.make(predictor, ["cpu", "cuda", "tpu"], None, (64, 96))
    call = jax.jit(export.deserialize(bytearray(made.content)).call)
    differing = pixels = 0
    for size in [(64, 96), *([] if made.taken.size else [(131, 101)])]:
        # Smooth, so that the features of deep backbones differ from place to place.
        low = np.random.default_rng(0).uniform(0, 255, (*(-(-n // 16) + 1 for n in size), 3))
        image = low.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]].astype(np.uint8)
        mask = predictor(image).mask
        differing += int((np.asarray(call(image[None])["mask"][0]) != mask).sum())
        pixels += mask.size
    column = 2 if made.taken.size else 1 if max(made.taken.least) > 1 else 0
    print("FOUND", part, name, COLUMNS[column], made.taken.least, differing, pixels, made.notes)
    assert differing <= 1e-4 * pixels
    assert name in documented()[part][column], (COLUMNS[column], made.notes)
