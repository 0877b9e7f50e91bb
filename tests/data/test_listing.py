"""Listings of a split's files, and what of two of them differs."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from attnseg_jax.data import listing as module
from attnseg_jax.data.listing import difference, listing, listing_hash
from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError


def test_what_changed_in_a_folder(data_config, folder, save):
    root = folder([(5, 6)] * 4)
    config = data_config(dir=str(root))

    def found(known=None):
        config.resolution = 1.0 if known is None else 2.0  # the files are the same
        return listing(load_source(config, "train"), known)

    first = found()
    assert sorted(first) == [f"{part}/p00{i}.png" for part in ("train", "trainannot") for i in range(4)]
    (root / "train/p000.png").unlink()
    (root / "trainannot/p000.png").unlink()
    save(root / "train/new.png", np.zeros((5, 6, 3), np.uint8))
    save(root / "trainannot/new.png", np.zeros((5, 6), np.uint8))
    # One flipped byte, so that the size stays; and one file that is only touched.
    data = bytearray((root / "trainannot/p001.png").read_bytes())
    data[-1] ^= 1
    (root / "trainannot/p001.png").write_bytes(data)
    os.utime(root / "train/p002.png", ns=(1, 1))
    second = found(first)
    assert difference(first, second) == (
        "2 files added (train/new.png, trainannot/new.png), 2 files removed (train/p000.png, trainannot/p000.png), "
        "1 file changed (trainannot/p001.png)"
    )
    assert listing_hash(first) != listing_hash(second)
    moved = {name: (size, 7, digest) for name, (size, _, digest) in first.items()}
    assert listing_hash(moved) == listing_hash(first) and difference(first, moved) == ""


def test_only_new_files_are_read(data_config, folder, monkeypatch):
    source = load_source(data_config(dir=str(folder([(5, 6)] * 2))), "train")
    first = listing(source)
    monkeypatch.setattr(module, "file_sha256", None)
    assert listing(source, first) == first


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: cannot be read \(No such file or directory\)"):
        listing(SimpleNamespace(files=lambda: {"gone": tmp_path / "gone.png"}))


def test_a_source_need_not_tell():
    assert listing(SimpleNamespace()) == {}
