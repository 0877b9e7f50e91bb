"""TIFF files whose pages are pictures: found by the doctor, read for training, predicted page by page."""

import contextlib
import logging

import numpy as np
import pytest
import tifffile
from PIL import Image

from attnseg_jax.data import decode
from attnseg_jax.data.doctor import examine
from attnseg_jax.data.layouts import stacks
from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError
from attnseg_jax.inference import pictures

PAGES, SIZE = 23, (12, 17)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/attnseg_jax/stacks"


def volume(path, seed=0, dtype=np.uint8, pages=PAGES):
    """Writes a stack and one of its masks; what is in them."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 200, (pages, *SIZE)).astype(dtype)
    mask = (255 * (rng.random((pages, *SIZE)) < 0.4)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(f"{path}-volume.tif", image, photometric="minisblack")
    tifffile.imwrite(f"{path}-labels.tif", mask, photometric="minisblack")
    return image, mask


def proposed(root):
    diagnosis = examine.examine(examine.make_plan(root), threads=1)
    return diagnosis, {decision.key: decision.value for decision in diagnosis.decisions}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pages_from_the_folder_to_training(tmp_path, data_config, dtype):
    image, mask = volume(tmp_path / "set/train", dtype=dtype)
    tifffile.imwrite(tmp_path / "set/test-volume.tif", image[:4], photometric="minisblack")
    diagnosis, decided = proposed(tmp_path / "set")
    assert decided["data.layout"] == "stacks" and decided["data.leave_out"] == ("test-volume.tif",)
    assert any("1 image without a mask" in finding.text for finding in diagnosis.findings)
    keys = {key[5:]: value for key, value in decided.items() if key.startswith("data.") and key.count(".") == 1}
    config = data_config(**keys | {"dir": str(tmp_path / "set")})
    found = {split: load_source(config, split) for split in ("train", "val")}
    seen = {}
    for source in found.values():
        seen |= {record["id"]: record for record in map(source.__getitem__, range(len(source)))}
    assert sorted(seen) == [f"train_{page:04d}" for page in range(PAGES)]
    for page, name in enumerate(sorted(seen)):
        channels = 1 if dtype != np.uint8 else 3
        np.testing.assert_array_equal(seen[name]["image"], np.stack([image[page]] * channels, -1))
        np.testing.assert_array_equal(seen[name]["label"], mask[page] > 0)
    # Blocks of ten pages stay together.
    blocks = {split: {source[i]["id"][:-1] for i in range(len(source))} for split, source in found.items()}
    assert not blocks["train"] & blocks["val"] and len(blocks["train"] | blocks["val"]) == 3


def test_each_split_has_its_stacks(tmp_path, data_config):
    for split, pages in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            volume(tmp_path / f"set/{split}/{name}", pages=pages)
    diagnosis, decided = proposed(tmp_path / "set")
    assert (decided["data.images"], decided["data.masks"]) == (
        "{split}/{stem}-volume.*", "{split}/{stem}-labels.*"
    )  # fmt: skip
    assert {split: len(pairs) for split, pairs in diagnosis.plan.pairs.items()} == {"train": 6, "val": 4}


def test_stacks_are_not_read_as_pictures(tmp_path, data_config):
    volume(tmp_path / "train")
    keys = {"dir": str(tmp_path), "images": "{stem}-volume.*", "masks": "{stem}-labels.*", "split": ("hash", 0.4)}
    with pytest.raises(UserError, match=r"train-volume.tif: the file holds several pictures.*layout=stacks"):
        load_source(data_config(**keys), "train")
    tifffile.imwrite(tmp_path / "train-labels.tif", np.zeros((PAGES - 1, *SIZE), np.uint8), photometric="minisblack")
    with pytest.raises(UserError, match=rf"train-labels.tif: {PAGES - 1} page\(s\), and its image .* has {PAGES}"):
        load_source(data_config(**keys, layout="stacks"), "train")
    with pytest.raises(UserError, match=r"layout='stacks' needs config\.data\.images"):
        load_source(data_config(dir=str(tmp_path), layout="stacks"), "train")
    with pytest.raises(UserError, match=r"config\.data\.bands is of images of several files"):
        load_source(data_config(**keys, layout="stacks", bands=("a", "b")), "train")


def test_masks_keep_their_values(tmp_path):
    """4-bit gray, which Pillow stretches, and what JPEG inside would have changed."""
    gray, lossy = tmp_path / "g.tif", tmp_path / "j.tif"
    values = np.arange(12 * 18, dtype=np.uint8).reshape(12, 18) % 16
    # Two values of 4 bits a byte.
    packed = (values[:, ::2] << 4 | values[:, 1::2]).tobytes()
    with tifffile.TiffWriter(gray) as file:
        for _ in range(2):
            file.write(iter([packed]), shape=(12, 18), dtype=np.uint8, bitspersample=4, rowsperstrip=12)
    assert stacks._write_pages(gray, tmp_path / "out/g", masks=True) == 2
    np.testing.assert_array_equal(decode.decode_mask(tmp_path / "out/g_0001.png", "g"), values)
    pages = [Image.fromarray(values * 16) for _ in range(2)]
    pages[0].save(lossy, save_all=True, append_images=pages[1:], compression="jpeg")
    with pytest.raises(UserError, match=r"j\.tif: JPEG inside changes the values of masks"):
        stacks._write_pages(lossy, tmp_path / "out/j", masks=True)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_stack_that_is_cut_short(tmp_path):
    """Nothing is trained on, whether it is named by the doctor or refused; no other error comes."""
    volume(tmp_path / "train", pages=3)
    mask = tmp_path / "train-labels.tif"
    whole = mask.read_bytes()
    for size in (4, 150, 300, len(whole) - 40):
        mask.write_bytes(whole[:size])
        assert stacks.pages(mask) >= 1
        with contextlib.suppress(UserError):
            assert not proposed(tmp_path)[1]


def test_reduced_copies_are_no_pages(tmp_path):
    path = tmp_path / "zoom.tif"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            file.write(np.zeros((16 // step, 24 // step, 3), np.uint8), subfiletype=int(step > 1))
    assert stacks.pages(path) == 1


def test_a_stack_is_predicted_by_page(tmp_path, caplog):
    image, _ = volume(tmp_path / "a", pages=3)
    found = pictures.by_page(pictures.find(str(tmp_path / "a-volume.tif")))
    assert [picture.target.as_posix() for picture in found] == [f"a-volume/{page:04d}" for page in range(3)]
    for page, (_, pixels) in enumerate(pictures.decoded(found)):
        np.testing.assert_array_equal(pixels, np.stack([image[page]] * 3, -1))
    sixteen, _ = volume(tmp_path / "b", dtype=np.uint16, pages=2)
    page = stacks.read_page(tmp_path / "b-volume.tif", 1, channels=1)
    np.testing.assert_array_equal(page, sixteen[1, ..., None])
    with pytest.raises(UserError, match=r"b-volume\.tif: the picture has 1 channel, and config\.data\.channels=3"):
        stacks.read_page(tmp_path / "b-volume.tif", 1, channels=3)
    with caplog.at_level(logging.WARNING, "absl"):
        decode.decode_image(tmp_path / "a-volume.tif", "a")
    assert "of several pictures in a file the first is read" in caplog.text
