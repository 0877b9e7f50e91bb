"""Folders of parquet files as Hugging Face `datasets` writes them, found by the doctor, read as folders of pictures."""

import io
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attnseg_jax.data.doctor import examine
from attnseg_jax.data.layouts import parquet
from attnseg_jax.data.sources import load_source, survey
from attnseg_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/attnseg_jax/parquet"


def encoded(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": None}


def pair(seed, size=(24, 32)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size, 3), np.uint8), (rng.random(size) < 0.3).astype(np.uint8)


def write(path, pairs, columns=("image", "label"), group=2, kind="PNG", **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {columns[0]: [encoded(image, kind) for image, _ in pairs], columns[1]: [encoded(mask) for _, mask in pairs]}
    pq.write_table(pa.table({**others, **rows}), path, row_group_size=group)


def test_names_of_files_tell_the_split(tmp_path):
    names = ["train-00000-of-00002.parquet", "train-00001-of-00002-0123456789abcdef.parquet", "validation.parquet"]
    for name in names:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).touch()
    (tmp_path / "test").mkdir()
    (tmp_path / "test/0000.parquet").touch()
    found = parquet.shards(tmp_path)
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": names[:2], "validation": names[2:], "test": ["0000.parquet"]
    }  # fmt: skip
    (tmp_path / "other").mkdir()
    (tmp_path / "other/train-00000-of-00001.parquet").touch()
    with pytest.raises(UserError, match=r"files of 'train' are in several folders, .*other: give one of them"):
        parquet.shards(tmp_path)


def test_rows_are_the_pairs(tmp_path, data_config, cache):
    root, pairs = tmp_path / "set", [pair(seed) for seed in range(5)]
    write(root / "data/train-00000-of-00002.parquet", pairs[:3], name=["x", "y", "z"])
    write(root / "data/train-00001-of-00002.parquet", pairs[3:], name=["v", "w"])
    write(root / "data/validation-00000-of-00001.parquet", pairs[:1], name=["u"], kind="TIFF")
    config = data_config(dir=str(root), classes=("a", "b"), eval_split="validation")
    source = load_source(config, "train")
    assert len(source) == 5
    for index, (image, mask) in enumerate(pairs):
        np.testing.assert_array_equal(source[index]["image"], image)
        np.testing.assert_array_equal(source[index]["label"], mask)
    (folder,) = cache.iterdir()
    assert {path.name for path in folder.iterdir()} == {"train"}
    written = (folder / "train/images/0000004.png").stat().st_mtime_ns
    config.layout = "parquet"
    assert len(load_source(config, "validation")) == 1
    assert sorted(path.suffix for path in (folder / "validation").rglob("*.*")) == [".png", ".tif"]
    # Once, until the files are others.
    load_source(config, "train")
    assert (folder / "train/images/0000004.png").stat().st_mtime_ns == written
    write(root / "data/train-00001-of-00002.parquet", pairs[3:4], name=["v"])
    assert len(load_source(config, "train")) == 4
    with pytest.raises(UserError, match="no parquet file of the split 'val'; there are 'train', 'validation'"):
        load_source(config, "val")


def test_the_doctor_writes_a_config(tmp_path, data_config):
    root = tmp_path / "set"
    write(root / "train-00000-of-00001.parquet", [pair(seed) for seed in range(6)], ("pixel_values", "annotation"))
    write(root / "valid-00000-of-00001.parquet", [pair(seed) for seed in range(6, 8)], ("pixel_values", "annotation"))
    (root / "id2label.json").write_text(json.dumps({"0": "ground", "1": "hole"}))
    diagnosis = examine.examine(examine.make_plan(root))
    decided = {decision.key: decision.value for decision in diagnosis.decisions}
    assert decided["data.dir"] == str(root) and decided["data.layout"] == "parquet"
    assert decided["data.classes"] == ("ground", "hole")
    config = data_config()
    config.update_from_flattened_dict(
        {key.removeprefix("data."): value for key, value in decided.items() if key.startswith("data.")}
    )
    counts = survey(load_source(config, config.train_split)).pixel_counts
    assert counts.tolist() == np.sum([np.bincount(pair(seed)[1].ravel()) for seed in range(6)], 0).tolist()
    assert len(load_source(config, config.eval_split)) == 2


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": [b"\x89PNG"], "text": ["a"]}, "columns with pictures are 'image' .of image, text.: name"),
        ({"text": ["a"]}, r"no column has pictures \(of text\): name that of the images"),
        ({"image": [None], "label": [b"BM"]}, "row 0, column 'image' holds no picture"),
        ({"image": [b"text"], "label": [b"BM"]}, "row 0, column 'image' is no picture of a kind that is read"),
        (None, r"train\.parquet: cannot be read as parquet"),
    ],
)  # fmt: skip
def test_what_is_no_data_set(tmp_path, data_config, cache, columns, words):
    path = tmp_path / "set/train.parquet"
    path.parent.mkdir()
    if columns is None:
        path.write_bytes(b"PAR1 no parquet")
    else:
        schema = pa.schema([(name, pa.string() if name == "text" else pa.binary()) for name in columns])
        pq.write_table(pa.table(columns, schema), path)
    with pytest.raises(UserError, match=words):
        load_source(data_config(dir=str(path.parent), layout="parquet"), "train")
    # Nothing half-written.
    assert not list(cache.glob("*/*"))


def test_columns_by_name_and_what_is_missing(tmp_path, data_config, monkeypatch):
    first, second = pair(0)[0], pair(1)[0]
    write(tmp_path / "set/train.parquet", [(first, pair(0)[1])], ("left", "classes"), right=[encoded(second)])
    config = data_config(dir=str(tmp_path / "set"), layout="parquet", images="right", masks="classes")
    np.testing.assert_array_equal(load_source(config, "train")[0]["image"], second)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    config.images = "left"
    with pytest.raises(UserError, match=r'take pyarrow, pip install "attnseg_jax\[parquet\]"'):
        load_source(config, "train")
