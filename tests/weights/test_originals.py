"""Whole models of the catalogue against their originals, which run in a Python of their own.

    ATTNSEG_ORIGINALS=venv/bin/python python -m pytest -m slow tests/weights/test_originals.py

where `venv` is that of `tests/goldens/make/README.md`. No published weights are needed: what is compared are files with
their names and shapes.
"""

import dataclasses
import json
import os
import pathlib
import re
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from PIL import Image

import attnseg_jax.inference.predictor
from attnseg_jax import Predictor
from attnseg_jax.data import datasets
from attnseg_jax.train import config as configs
from attnseg_jax.train.setup import make_model
from attnseg_jax.weights.catalogue import MODELS
from attnseg_jax.weights.fit import fit

PYTHON = os.environ.get("ATTNSEG_ORIGINALS", "")
SCRIPT = pathlib.Path(__file__).parents[1] / "goldens/make/published.py"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason="ATTNSEG_ORIGINALS names no Python")]
# The others' originals are in no package, or their files are differences.
BUILT = [name for name in MODELS if not name.startswith(("segmenter", "eomt_dinov3_l_delta"))]
# The smallest of each layout; those of the others are compared by goldens.
COMPARED = (
    "segformer_b0-ade20k",
    "upernet_swin_t-ade20k",
    "upernet_convnext_t-ade20k",
    "mask2former_resnet50-ade20k",
    "mask2former_swin_t-cityscapes",
    "eomt_l-ade20k",
    "eomt_dinov3_l-ade20k",
    "dpt_l-ade20k",
    "fcn_resnet50-voc",
    "deeplabv3_mobilenet_v3_large-voc",
    "lraspp_mobilenet_v3_large-voc",
)
# One of each way of processing pictures before and after.
PROCESSED = (
    "segformer_b0-ade20k",
    "mask2former_swin_t-ade20k",
    "eomt_l-ade20k",
    "dpt_l-ade20k",
    "deeplabv3_resnet50-voc",
)
# Multiples of 64, to which pictures are padded in evaluation.
SIZES = ((192, 256), (256, 128))
# Originals that take one size only, or squares.
FIXED = {
    "eomt_l-ade20k": ((512, 512),),
    "eomt_dinov3_l-ade20k": ((512, 512),),
    "dpt_l-ade20k": ((192, 192), (256, 256)),
}


def run(*argv):
    done = subprocess.run([PYTHON, SCRIPT, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes") / "shapes.json"
    run("shapes", path, *BUILT)
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", BUILT)
def test_the_file_fits(name, shapes):
    """All names and shapes of the published file, and nothing is left over but a head of its training."""
    arrays = {key: np.broadcast_to(np.float32(0.5), shape) for key, shape in shapes[name]}
    config = configs.published(name)
    model = make_model(config, len(datasets.from_config(config.data).class_names))
    target = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *config.data.crop, 3)))
    fitted = fit(arrays, target, part="model", backbone=model.backbone, layout=MODELS[name].layout)
    assert not fitted.unfilled and not fitted.resampled
    # Heads and counters of its training, and what nothing goes through.
    known = r"(auxiliary_head|criterion)\..*|.*\bswin\.layernorm\..*|neck\.fusion_stage\.layers\.0\.residual_layer1\..*"
    assert all(re.fullmatch(known, key) for key in fitted.unused)


def compared(name, tmp_path, monkeypatch, **pictures):
    """The predictor of a file of generated weights, and the folder with what the original makes of the pictures."""
    for key, picture in pictures.items():
        np.save(tmp_path / f"{key}.npy", picture)
    run("files", tmp_path, name)
    (file,) = [path for path in (tmp_path / name).iterdir() if path.suffix in (".safetensors", ".pth", ".pkl")]
    # This one is not the published file.
    monkeypatch.setitem(MODELS, name, dataclasses.replace(MODELS[name], sha256=""))
    return lambda changes: Predictor(f"{name}={file}", changes=changes), tmp_path / name


@pytest.mark.parametrize("name", COMPARED)
def test_the_masks_of_a_photograph(name, tmp_path, monkeypatch):
    photo = skimage.data.astronaut()
    pictures = {
        f"photo{i}": np.ascontiguousarray(photo[(512 - h) // 8 :][:h, (512 - w) // 3 :][:, :w])
        for i, (h, w) in enumerate(FIXED.get(name, SIZES))
    }
    make, folder = compared(name, tmp_path, monkeypatch, **pictures)
    predictor = make({"eval.mode": "whole", "data.shorter_side": 0})
    assert predictor.info.class_names == datasets.DATASETS[MODELS[name].data].class_names
    with np.load(folder / "scores.npz") as stored:
        for key, picture in pictures.items():
            found, expected = predictor(picture, extras=("probabilities",)), stored[key]
            assert (found.mask == expected.argmax(0)).mean() >= 0.999, key
            shares = np.moveaxis(expected / expected.sum(0), 0, -1)
            np.testing.assert_allclose(found.probabilities, shares, atol=2e-3)


@pytest.mark.parametrize("name", PROCESSED)
def test_the_masks_of_a_large_photograph(name, tmp_path, monkeypatch):
    """Larger than the model takes it, at two sizes, processed before and after as by the authors' packages."""
    photo = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((640, 640), Image.Resampling.BICUBIC))
    wide = np.concatenate([photo, photo[:, ::-1]], 1)
    # No sides that the model's maps do not fit; windows meet in the first, and overlap in the second.
    pictures = {"large0": wide, "large1": np.rot90(wide)[: 1200 if name.endswith("voc") else 900, :600]}
    # DPT's originals take squares.
    if name.startswith("dpt"):
        pictures = {"large0": photo, "large1": photo[:500, 100:600]}
    pictures = {key: np.ascontiguousarray(picture) for key, picture in pictures.items()}
    make, folder = compared(name, tmp_path, monkeypatch, **pictures)
    # The tests have eight devices in one memory, each of which would have a copy of the weights for its windows.
    monkeypatch.setattr(attnseg_jax.inference.predictor, "_mesh", lambda: None)
    predictor = make({})
    for key, picture in pictures.items():
        with np.load(folder / f"{key}.npz") as stored:
            mask, scores = stored["mask"], stored["scores"]
        found = predictor(picture, extras=("probabilities",))
        assert (found.mask == mask).mean() >= 0.999
        shares = np.moveaxis(scores / scores.sum(0), 0, -1)
        np.testing.assert_allclose(found.probabilities[::8, ::8], shares, atol=2e-3)
