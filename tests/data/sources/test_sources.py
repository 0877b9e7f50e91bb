import ast
import re
import subprocess
import sys

import numpy as np
import pytest

from attnseg_jax.data.sources import check_classes, load_source, survey
from attnseg_jax.errors import UserError


def message(call):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_camvid_layout(data_config, tmp_path, save):
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    mask = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7) % 12
    save(tmp_path / "val" / "b.png", image)
    save(tmp_path / "valannot" / "b.png", mask)
    source = load_source(data_config(name="camvid", classes=(), dir=str(tmp_path)), "val")
    assert len(source) == 1 and source.size(0) == (5, 7) and source.info.name == "camvid"
    sample = source[0]
    assert sample["id"] == "b" and sample["image"].dtype == sample["label"].dtype == np.uint8
    np.testing.assert_array_equal(sample["image"], image)
    np.testing.assert_array_equal(sample["label"], np.where(mask == 11, 255, mask))


def test_images_masks_layout_pairs_by_stem(data_config, tmp_path, save):
    for i, name in enumerate(("z.JPG", "a.b.jpeg", "m.png", "._m.png")):
        save(tmp_path / "images" / "fold1" / name, np.full((8, 9, 3), i * 50, np.uint8))
    for i, name in enumerate(("z.png", "a.b.png", "m.PNG", "spare.png")):
        save(tmp_path / "masks" / "fold1" / name, np.full((8, 9), i, np.uint8))
    (tmp_path / "images" / "fold1" / "notes.txt").write_text("no image")
    source = load_source(data_config(dir=str(tmp_path)), "fold1")
    assert [s["id"] for s in (source[i] for i in range(len(source)))] == ["a.b", "m", "z"]
    assert [int(source[i]["label"][0, 0]) for i in range(3)] == [1, 2, 0]
    assert [int(source[i]["image"][0, 0, 0]) for i in range(3)] == [50, 100, 0]


def test_layout_can_be_forced(data_config, folder):
    root = folder([(5, 6)])
    text = message(lambda: load_source(data_config(dir=str(root), layout="images_masks"), "train"))
    assert "images/train" in text and "trainannot" not in text
    assert len(load_source(data_config(dir=str(root), layout="camvid"), "train")) == 1
    assert "did you mean 'camvid'?" in message(lambda: load_source(data_config(dir="x", layout="camvit"), "train"))


def test_missing_folders(data_config, tmp_path):
    text = message(lambda: load_source(data_config(dir=str(tmp_path / "none")), "train"))
    root = tmp_path / "none"
    assert f"config.data.dir={root}: there is no such folder" in text
    assert f"{root / 'train'} with {root / 'trainannot'}" in text
    assert f"{root / 'images/train'} with {root / 'masks/train'}" in text
    assert "no split 'train'" in message(lambda: load_source(data_config(dir=str(tmp_path)), "train"))
    text = message(lambda: load_source(data_config(dir="~nobody-like-that/x"), "train"))
    assert "config.data.dir=~nobody-like-that/x: there is no such folder" in text
    assert "config.data.dir is empty" in message(lambda: load_source(data_config(), "train"))


def test_unknown_kind_of_source(data_config):
    text = message(lambda: load_source(data_config(source="folders"), "train"))
    assert text == "config.data.source='folders' is unknown: did you mean 'folder'?"


def test_image_without_mask(data_config, folder):
    root = folder([(5, 6)] * 4)
    (root / "trainannot" / "p001.png").unlink()
    text = message(lambda: load_source(data_config(dir=str(root)), "train"))
    assert text.startswith(f"{root / 'train' / 'p001.png'}: the image has no mask;")
    (root / "trainannot" / "p003.png").unlink()
    (root / "trainannot" / "p002.png").unlink()
    text = message(lambda: load_source(data_config(dir=str(root)), "train"))
    assert "p001.png: the image has no mask (and 2 more images);" in text


def test_no_images(data_config, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "trainannot").mkdir()
    assert "no images in this folder" in message(lambda: load_source(data_config(dir=str(tmp_path)), "train"))


def test_two_images_of_one_stem(data_config, folder, save):
    root = folder([(5, 6)])
    save(root / "train" / "p000.jpg", np.zeros((5, 6, 3), np.uint8))
    assert "p000.jpg has the same name" in message(lambda: load_source(data_config(dir=str(root)), "train"))


def test_rgb_masks_in_a_folder(data_config, tmp_path, save):
    colours = ((9, 8, 7), (1, 2, 3), (200, 100, 0))
    raw = np.random.default_rng(1).integers(0, 3, (5, 6))
    save(tmp_path / "train" / "a.png", np.zeros((5, 6, 3), np.uint8))
    save(tmp_path / "trainannot" / "a.png", np.array(colours, np.uint8)[raw])
    source = load_source(data_config(dir=str(tmp_path), colors=colours, ids=(6, 255, 2)), "train")
    np.testing.assert_array_equal(source[0]["label"], np.array([6, 255, 2])[raw])


def test_survey_counts_by_hand(data_config, tmp_path, save):
    masks = ([[0, 0, 1], [255, 1, 1]], [[2, 2, 2], [2, 2, 2]], [[0, 2, 255], [255, 255, 255]])
    for i, mask in enumerate(masks):
        save(tmp_path / "train" / f"{i}.png", np.zeros((2, 3, 3), np.uint8))
        save(tmp_path / "trainannot" / f"{i}.png", np.array(mask, np.uint8))
    found = survey(load_source(data_config(dir=str(tmp_path), classes=("a", "b", "c", "d")), "train"), threads=3)
    np.testing.assert_array_equal(found.pixel_counts, [3, 3, 7, 0])
    # Class 0 is in images 0 (5 labelled pixels) and 2 (2), class 1 in image 0, class 2 in images 1 (6) and 2 (2).
    np.testing.assert_array_equal(found.image_pixel_counts, [7, 5, 8, 0])
    assert found.pixel_counts.dtype == found.image_pixel_counts.dtype == np.int64
    assert found.sizes == ((2, 3),) * 3


@pytest.mark.parametrize("threads", [1, 4])
def test_survey_lists_the_bad_files(data_config, folder, save, threads):
    root = folder([(40, 50)] * 4 + [(5, 6)] * 8)
    save(root / "trainannot" / "p002.png", np.full((40, 50), 99, np.uint8))
    source = load_source(data_config(dir=str(root)), "train")
    assert message(lambda: survey(source, threads=threads)).startswith(f"{root / 'trainannot' / 'p002.png'}: ")
    save(root / "trainannot" / "p006.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(UserError) as error:
        survey(source, threads=threads)
    first, *lines = str(error.value).splitlines()
    assert first == "2 of 12 pairs cannot be used:"
    assert [line.split(": ")[0] for line in lines] == [
        f"  {root / 'trainannot' / name}.png" for name in ("p002", "p006")
    ]


def test_survey_lists_twenty_bad_files(data_config, folder):
    root = folder([(5, 6)] * 25)
    for path in (root / "trainannot").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UserError) as error:
        survey(load_source(data_config(dir=str(root)), "train"))
    lines = str(error.value).splitlines()
    assert lines[0] == "20 of 25 pairs cannot be used; there may be more:" and len(lines) == 21


def test_a_class_without_a_pixel_is_refused(data_config, tmp_path, save):
    """Masks of 0 and 255, where 255 is ignored unless the table says otherwise; the table that the message gives."""
    for i in range(3):
        save(tmp_path / "train" / f"{i}.png", np.zeros((4, 5, 3), np.uint8))
        save(tmp_path / "trainannot" / f"{i}.png", np.array([[0, 0, 0, 0, 255]] * 4, np.uint8))
    config = data_config(dir=str(tmp_path), classes=("background", "lesion"))
    for resolution in (1.0, 2.0):
        config.resolution = resolution
        text = message(lambda: check_classes(source := load_source(config, "train"), survey(source)))
        assert "no pixel of its 3 training masks is 'lesion'; the masks hold the values 0 (80.0%), 255 (20.0%)" in text
    config.ids = ast.literal_eval(re.search("config.data.ids='(.*?)'", text)[1])
    source = load_source(config, "train")
    found = survey(source)
    check_classes(source, found)
    assert found.pixel_counts.tolist() == [192, 48]


def test_survey_of_nothing_labelled(data_config, tmp_path, save):
    save(tmp_path / "train" / "a.png", np.zeros((5, 6, 3), np.uint8))
    save(tmp_path / "trainannot" / "a.png", np.full((5, 6), 255, np.uint8))
    source = load_source(data_config(dir=str(tmp_path)), "train")
    text = message(lambda: survey(source))
    assert "not one pixel of its 1 masks has a class" in text and "the masks hold the values 255 (100.0%)" in text


def test_folders_need_neither_tfds_nor_tensorflow(folder):
    root = folder([(13, 17)] * 3)
    code = f"""
import sys
from types import SimpleNamespace
from attnseg_jax.data.pipeline import train_batches
from attnseg_jax.data.sources import load_source, survey
config = SimpleNamespace(
    source="folder", name="", tfds_name="", dir={str(root)!r}, layout="auto", images="", masks="",
    lists="", split=(), leave_out=(), max_pixels=1 << 20, mask_values="exact", train_split="train", eval_split="val",
    mask_sizes="exact",
    classes=tuple("abcdefg"), palette=(),
    ids=(), ignore=(255,), colors=(), channels=0, bands=(), show=(), labels=(),
    mode="multiclass", missing="error",
    transforms=("scale_crop", "flip", "colour_jitter", "normalise_pad"),
    crop=(13, 17), scale=(1, 1), max_class_share=1.0, foreground=SimpleNamespace(probability=0), flip=0.5,
    brightness=0, contrast=0, saturation=0, hue=0, mean=(0, 0, 0), std=(1, 1, 1), channel_order="rgb",
    threads=2, resolution=1.0, shorter_side=0, interpolation="bilinear",
    sampling=SimpleNamespace(power=0, empty=1), regions=SimpleNamespace(method="none"))
source = load_source(config, "train")
survey(source)
batches = train_batches(source, config, batch_size=2, seed=0)
assert next(batches)["image"].shape == (2, 13, 17, 3)
batches.close()
found = {{"tensorflow", "tensorflow_datasets", "cv2", "flax", "optax", "skimage"}} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
