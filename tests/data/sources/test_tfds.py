import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from attnseg_jax.data.context import draw_scene
from attnseg_jax.data.datasets import DATASETS
from attnseg_jax.data.pipeline import eval_batches, train_batches
from attnseg_jax.data.sources import load_source, survey
from attnseg_jax.errors import UserError


class AttnsegTestPalettes(tfds.core.GeneratorBasedBuilder):
    """Palette masks and JPEG images, under keys of their own."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Made for a test."}  # noqa: RUF012
    url_infos = None

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        mask = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        return self.dataset_info_from_configs(
            description="Palettes.", features=tfds.features.FeaturesDict({"photo": image, "mask": mask})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "val": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            image, mask = Image.new("RGB", (17, 13), (40 * i, 100, 7)), Image.fromarray(palette_mask(i))
            mask.putpalette([v for j in range(256) for v in (255 - j, 90, j)])
            streams = io.BytesIO(), io.BytesIO()
            image.save(streams[0], "JPEG", quality=95)
            mask.save(streams[1], "PNG")
            for stream in streams:
                stream.seek(0)
            yield i, {"photo": streams[0], "mask": streams[1]}


def palette_mask(i):
    return np.random.default_rng(i).integers(0, 4, (13, 17)).astype(np.uint8)


@pytest.fixture(scope="session")
def context_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture
def context_config(data_config, context_dir):
    return data_config(
        source="tfds", name="context", tfds_name="attnseg_context/small", dir=str(context_dir), classes=(),
        crop=(64, 96), scale=(1.0, 1.0), max_class_share=1.0,
    )  # fmt: skip


def error_of(config, split="train"):
    with pytest.raises(UserError) as error:
        load_source(config, split)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_context_is_drawn_once_on_first_use(context_config, context_dir, capsys):
    sources = {split: load_source(context_config, split) for split in ("train", "val", "test")}
    assert {split: len(source) for split, source in sources.items()} == {"train": 48, "val": 12, "test": 12}
    # Commands print their results on stdout; nothing else belongs there.
    assert capsys.readouterr().out == ""
    files = sorted(context_dir.rglob("*.array_record*"))
    assert len(files) == 3
    times = [f.stat().st_mtime_ns for f in files]
    load_source(context_config, "val")
    assert [f.stat().st_mtime_ns for f in files] == times


def test_context_scenes_survive_storage(context_config):
    source = load_source(context_config, "val")
    wanted = {draw_scene("val", i).image.tobytes(): draw_scene("val", i).label for i in range(12)}
    for i in range(12):
        sample = source[i]
        np.testing.assert_array_equal(sample["label"], wanted.pop(sample["image"].tobytes()))
        assert source.size(i) == (64, 96)
    assert not wanted and source.info.class_names == DATASETS["context"].class_names


def test_context_records_tell_where_the_key_is(context_config, context_dir):
    load_source(context_config, "val")
    builder = tfds.builder("attnseg_context/small", data_dir=context_dir)
    skip = {"image": tfds.decode.SkipDecoding(), "label": tfds.decode.SkipDecoding()}
    for record in builder.as_data_source("val", decoders=skip):
        scene = draw_scene("val", int(record["index"]))
        assert int(record["key"]) == scene.key and tuple(record["key_box"]) == scene.key_box


def test_context_goes_through_pipeline_and_survey(context_config):
    source = load_source(context_config, "train")
    batches = train_batches(source, context_config, batch_size=4, seed=0)
    batch = next(batches)
    batches.close()
    assert batch["image"].shape == (4, 64, 96, 3) and set(np.unique(batch["label"])) <= {*range(7), 255}
    assert sum(b["valid"].sum() for b in eval_batches(source, context_config, batch_size=9)) == 48
    assert (survey(source).pixel_counts > 0).all()


def test_split_expressions_of_tfds(context_config):
    assert len(load_source(context_config, "train[:25%]")) == 12


@pytest.fixture(scope="session")
def palettes_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("palettes")
    tfds.disable_progress_bar()
    tfds.builder("attnseg_test_palettes", data_dir=directory).download_and_prepare(file_format="array_record")
    return directory


def test_palette_masks_keep_their_indices_and_keys_are_found(data_config, palettes_dir):
    config = data_config(source="tfds", tfds_name="attnseg_test_palettes", dir=str(palettes_dir), ids=(255, 6, 0, 3))
    source = load_source(config, "train")
    table = np.array([255, 6, 0, 3])
    wanted = {table[palette_mask(i)].astype(np.uint8).tobytes(): 40 * i for i in range(5)}
    for i in range(5):
        sample = source[i]
        assert abs(int(sample["image"][6, 8, 0]) - wanted.pop(sample["label"].tobytes())) < 4
    assert not wanted
    assert source.info.name == "attnseg_test_palettes"


def test_a_bad_value_names_the_record(data_config, palettes_dir):
    config = data_config(source="tfds", tfds_name="attnseg_test_palettes", dir=str(palettes_dir), ids=(0, 1))
    # One line for each record with such a value.
    with pytest.raises(
        UserError, match=r"\n  attnseg_test_palettes/1\.0\.0 train\[\d\] mask: the mask holds the value [23]"
    ):
        survey(load_source(config, "train"))


def test_unprepared_data_says_how_to_prepare(data_config, tmp_path):
    text = error_of(data_config(source="tfds", name="oxford_iiit_pet", classes=(), dir=str(tmp_path)))
    assert "no data at" in text and "download_and_prepare(file_format='array_record')" in text
    assert f"data_dir='{tmp_path}'" in text


def test_unknown_names_and_splits(data_config, context_config, tmp_path):
    text = error_of(data_config(source="tfds", tfds_name="no_such_set", dir=str(tmp_path)))
    assert text.startswith("config.data.tfds_name='no_such_set' is no data set that TFDS knows")
    assert "has no split 'trian'; known: train, val, test" in error_of(context_config, "trian")
    assert error_of(data_config(source="tfds")).startswith("config.data.tfds_name is empty")
    context_config.tfds_name = "attnseg_context/smal"
    assert error_of(context_config).startswith("config.data.tfds_name='attnseg_context/smal': ")


def test_other_file_formats_are_refused(data_config, palettes_dir, tmp_path):
    shutil.copytree(palettes_dir, tmp_path / "copy")
    path = tmp_path / "copy" / "attnseg_test_palettes" / "1.0.0" / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"}))
    text = error_of(data_config(source="tfds", tfds_name="attnseg_test_palettes", dir=str(tmp_path / "copy")))
    assert "prepared as tfrecord" in text and "config.data.dir" in text


def test_a_place_that_cannot_be_written(context_config, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    context_config.dir = str(tmp_path / "file")
    text = error_of(context_config)
    assert "cannot be written" in text and "config.data.dir" in text


@pytest.mark.parametrize("name", ["cityscapes", "oxford_iiit_pet"])
def test_the_table_names_features_that_exist(name, tmp_path):
    entry = DATASETS[name]
    features = tfds.builder(entry.tfds_name, data_dir=tmp_path).info.features
    assert features[entry.image_key].shape[-1] == 3 and features[entry.label_key].shape[-1] == 1


def test_tensorflow_is_never_imported(tmp_path):
    # A package of that name that cannot be imported: TFDS thinks TensorFlow is there, and must not touch it.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise RuntimeError('TensorFlow was imported')\n")
    code = f"""
import sys
from types import SimpleNamespace
from attnseg_jax.data.sources import load_source
config = SimpleNamespace(source="tfds", name="context", tfds_name="attnseg_context/small", dir={str(tmp_path / "d")!r},
    classes=(), palette=(), ids=(), ignore=(255,), colors=(), channels=0, show=(), max_pixels=1 << 20,
    mode="multiclass",
    mask_values="exact", resolution=1.0, shorter_side=0, interpolation="bilinear")
source = load_source(config, "val")
assert len(source) == 12 and source[0]["image"].shape == (64, 96, 3)
assert "tensorflow" not in sys.modules
"""
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr


DAMAGES = {
    "flipped": lambda file: file.write_bytes(bytes([*(b := file.read_bytes())[:90_000], b[90_000] ^ 1, *b[90_001:]])),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:70_000]),
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "empty": lambda file: file.write_bytes(b""),
    "deleted": lambda file: file.unlink(),
}


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("flipped", "attnseg_context-val.array_record-00000-of-00001"),
        ("deleted", "attnseg_context-test.array_record-00000-of-00001"),
        ("cut", "dataset_info.json"),
        ("empty", "dataset_info.json"),
        ("deleted", "dataset_info.json"),
        ("empty", "digests.json"),
        ("deleted", "digests.json"),
        *(
            pytest.param(how, "attnseg_context-val.array_record-00000-of-00001", marks=pytest.mark.slow)
            for how in DAMAGES
        ),
    ],
)
def test_a_damaged_context_is_drawn_again(how, name, context_config, context_dir, tmp_path):
    load_source(context_config, "val")
    shutil.copytree(context_dir, tmp_path / "copy")
    folder = tmp_path / "copy/attnseg_context/small/1.0.0"
    if how == "cut":
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
    else:
        DAMAGES[how](folder / name)
    context_config.dir = str(tmp_path / "copy")
    source = load_source(context_config, "val")
    assert {source[i]["label"].tobytes() for i in range(12)} == {
        draw_scene("val", i).label.tobytes() for i in range(12)
    }
    assert [path.name for path in (tmp_path / "copy").iterdir() if "drawing" in path.name] == []


def test_two_processes_draw_one_context(tmp_path):
    code = f"""
from types import SimpleNamespace
from attnseg_jax.data.sources import load_source
config = SimpleNamespace(source="tfds", name="context", tfds_name="attnseg_context/small", dir={str(tmp_path / "d")!r},
    classes=(), palette=(), ids=(), ignore=(255,), colors=(), channels=0, show=(), max_pixels=1 << 20,
    mode="multiclass",
    mask_values="exact", resolution=1.0, shorter_side=0, interpolation="bilinear")
print(sum(int(load_source(config, "val")[i]["label"].sum()) for i in range(12)))
"""
    command = [sys.executable, "-c", code]
    # As if a process was killed while it drew.
    (tmp_path / "d/.attnseg_context.drawing/attnseg_context/small").mkdir(parents=True)
    two = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    found = [process.communicate() for process in two]
    assert [process.returncode for process in two] == [0, 0], found
    assert {int(out) for out, _ in found} == {sum(int(draw_scene("val", i).label.sum()) for i in range(12))}


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_records_of_another_set_are_named(how, data_config, palettes_dir, tmp_path):
    folder = shutil.copytree(palettes_dir, tmp_path / "copy") / "attnseg_test_palettes/1.0.0"
    (file,) = folder.glob("*train*record*")
    if how == "flipped":
        content = bytearray(file.read_bytes())
        content[:] = content[:200] + bytes(x ^ 255 for x in content[200:4000]) + content[4000:]
        file.write_bytes(content)
    else:
        DAMAGES[how](file)
    config = data_config(source="tfds", tfds_name="attnseg_test_palettes", dir=str(tmp_path / "copy"))
    with pytest.raises(UserError, match=rf"^{folder}: a file with the records of split 'train' is damaged or missing"):
        survey(load_source(config, "train"))


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_metadata_of_another_set_is_named(content, data_config, palettes_dir, tmp_path):
    path = shutil.copytree(palettes_dir, tmp_path / "copy") / "attnseg_test_palettes/1.0.0/dataset_info.json"
    path.write_text(content)
    text = error_of(data_config(source="tfds", tfds_name="attnseg_test_palettes", dir=str(tmp_path / "copy")))
    assert "the dataset_info.json or features.json of the prepared data is damaged" in text
