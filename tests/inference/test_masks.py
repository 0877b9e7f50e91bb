"""Masks on disk against the truth of a split: what is read, and what is refused by name."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError
from attnseg_jax.inference.masks import evaluate_masks


@pytest.fixture(scope="module")
def split(make_config):
    """(config, source, records) of the validation split."""
    config = make_config()
    source = load_source(config.data, "val")
    return config, source, [source[i] for i in range(len(source))]


@pytest.fixture
def folder(split, tmp_path):
    """Perfect masks."""
    for record in split[2]:
        save(tmp_path / f"{record['id']}.png", np.where(record["label"] == 255, 0, record["label"]))
    return tmp_path


def save(path, ids):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(ids, np.uint8)).save(path)


def test_perfect_masks_but_for_some_pixels(split, folder):
    config, source, records = split
    changed = np.where(records[1]["label"] == 255, 0, records[1]["label"])
    wrong = (changed[:7] + 1) % 5
    right = records[1]["label"][:7] != 255
    changed[:7] = wrong
    save(folder / f"{records[1]['id']}.png", changed)
    scores = evaluate_masks(folder, config, source).scores
    total = sum((record["label"] != 255).sum() for record in records)
    assert scores.pixel_accuracy == pytest.approx(1 - right.sum() / total)
    expected = np.zeros((5, 5), int)
    np.add.at(expected, (records[1]["label"][:7][right], wrong[right]), 1)
    np.testing.assert_array_equal(scores.confusion - np.diag(np.diag(scores.confusion)), expected)


def test_masks_in_subfolders_and_values_of_the_data_set(split, folder):
    """Raw ids 3, 13, ... of the table that says so."""
    config, source, records = split
    config = config.copy_and_resolve_references()
    config.data.ids = tuple((10 * k + 3, k) for k in range(5))
    for record in records:
        (folder / f"{record['id']}.png").unlink()
        save(folder / "a" / f"{record['id']}.png", 10 * np.where(record["label"] == 255, 0, record["label"]) + 3)
    assert evaluate_masks(folder, config, source, raw_ids=True).scores.pixel_accuracy == 1
    with pytest.raises(UserError, match=r"the value \d+ is none of the 5 classes, 0 to 4; .* --raw_ids"):
        evaluate_masks(folder, config, source)


def missing(path: Path, size):
    path.unlink()


def smaller(path: Path, size):
    save(path, np.zeros((size[0], size[1] - 1)))


def undecided(path: Path, size):
    save(path, np.full(size, 255))


def damaged(path: Path, size):
    path.write_bytes(path.read_bytes()[:40])


def coloured(path: Path, size):
    save(path, np.zeros((*size, 3)))


def twice(path: Path, size):
    save(path.parent / "b" / path.name, np.zeros(size))


@pytest.mark.parametrize(
    "change, message",
    [
        (missing, "holds no mask for the image {id!r}: each needs one of its name"),
        (smaller, "{id}.png: the mask is 31x24 pixels, the truth of {id!r} 32x24"),
        (undecided, "{id}.png: {known} pixels have no class (value 255) where the truth has one"),
        (damaged, "{id}.png: cannot be decoded"),
        (coloured, "{id}.png: the mask is an RGB picture"),
        (twice, "holds several masks for the image {id!r}"),
    ],
)
def test_what_is_refused(split, folder, change, message):
    config, source, records = split
    last = records[-1]
    change(folder / f"{last['id']}.png", last["label"].shape)
    message = message.format(id=last["id"], known=int((last["label"] != 255).sum()))
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate_masks(folder, config, source)


def test_folders_without_masks(split, tmp_path):
    with pytest.raises(UserError, match=r"--predictions=.*none: there is no such folder"):
        evaluate_masks(tmp_path / "none", *split[:2])
    with pytest.raises(UserError, match="holds no masks"):
        evaluate_masks(tmp_path, *split[:2])
