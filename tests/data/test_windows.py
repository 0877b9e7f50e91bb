"""Very large files are read by windows, as decoding all of them and cutting; the limit before decoding."""

import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from attnseg_jax.data import bands, decode, limits, sampling, windows
from attnseg_jax.data.doctor import examine
from attnseg_jax.data.doctor.facts import read_image, read_mask, read_pair
from attnseg_jax.data.layouts import Pair
from attnseg_jax.data.pipeline import train_batches, training_samples
from attnseg_jax.data.sources import ByWindow, load_source, survey
from attnseg_jax.errors import UserError

H, W = 61, 83
RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (H, W, 4), np.uint8)
OPAQUE = np.concatenate([PIXELS[..., :3], np.full((H, W, 1), 255, np.uint8)], -1)
DEEP = RNG.integers(0, 1 << 16, (H, W, 5), np.uint16)
LABEL = np.kron(RNG.integers(0, 7, (9, 11)), np.ones((7, 8), int))[:H, :W].astype(np.uint8)
COLOURS = [(k,) * 3 for k in range(7)]
TILES, STRIPS = {"tile": (16, 32), "compression": "zlib"}, {"rowsperstrip": 7, "compression": "zlib"}


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch):
    monkeypatch.setattr(windows, "LARGE", 1000)


def tiff(path, array, photometric="minisblack", **options):
    tifffile.imwrite(path, array, photometric=photometric, **options)


def assert_windows(found, whole):
    """Parts at all rims and inside, and all of it."""
    assert found.shape == whole.shape and found.dtype == whole.dtype
    for y, x in ((0, 0), (13, 30), (H - 9, W - 11), (31, 63), (0, W - 40)):
        np.testing.assert_array_equal(found[y : y + 9, x : x + 11], whole[y : y + 9, x : x + 11])
    np.testing.assert_array_equal(np.asarray(found), whole)
    np.testing.assert_array_equal(np.concatenate([*windows.in_bands(found)]), whole)


@pytest.mark.parametrize(
    ("name", "write", "channels"),
    [
        ("tiles.tif", lambda path: tiff(path, PIXELS[..., :3], "rgb", **TILES), 0),
        ("strips.tif", lambda path: tiff(path, PIXELS[..., :3], "rgb", **STRIPS), 0),
        ("plain.tif", lambda path: tiff(path, PIXELS[..., :3], "rgb"), 0),
        ("alpha.tif", lambda path: tiff(path, OPAQUE, "rgb", extrasamples=["unassalpha"], **TILES), 0),
        ("gray.tif", lambda path: tiff(path, PIXELS[..., 0], **TILES), 0),
        ("bands.tif", lambda path: tiff(path, DEEP, planarconfig="contig", byteorder=">", **TILES), 5),
        ("plain_bands.tif", lambda path: tiff(path, DEEP, planarconfig="contig", byteorder=">"), 5),
        ("planes.tif", lambda path: tiff(path, DEEP.transpose(2, 0, 1), planarconfig="separate", **TILES), 5),
        ("plain_planes.tif", lambda path: tiff(path, DEEP.transpose(2, 0, 1), planarconfig="separate"), 5),
        ("pages.tif", lambda path: tiff(path, DEEP.transpose(2, 0, 1), **STRIPS), 5),
        ("float.tif", lambda path: tiff(path, DEEP / np.float32(7), planarconfig="contig", **TILES), 5),
        ("bytes.tif", lambda path: tiff(path, PIXELS, planarconfig="contig", **STRIPS), 4),
        ("array.npy", lambda path: np.save(path, DEEP), 5),
        ("flat.npy", lambda path: np.save(path, np.asfortranarray(DEEP[..., 0].astype(np.float64))), 1),
    ],
)
def test_a_window_is_that_of_the_whole_image(tmp_path, name, write, channels):
    path = tmp_path / name
    write(path)
    whole = bands.decode_bands([path], channels) if channels else decode.decode_image(path, name)
    assert_windows(windows.image_in([path], channels), whole)


def test_pieces_that_a_file_leaves_out_hold_what_it_calls_no_data(tmp_path):
    tiff(tmp_path / "a.tif", DEEP[..., 0], extratags=[(42113, "s", 2, "7", True)], **TILES)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        for name in ("TileByteCounts", "TileOffsets"):
            tag = file.pages[0].tags[name]
            size = {3: 2, 4: 4}[tag.dtype]
            data[tag.valueoffset + size : tag.valueoffset + 2 * size] = bytes(size)
    (tmp_path / "a.tif").write_bytes(data)
    whole = bands.decode_bands([tmp_path / "a.tif"], 1)
    assert (whole[:16, 32:64] == 7).all()
    assert_windows(windows.image_in([tmp_path / "a.tif"], 1), whole)


def test_several_files_of_an_image(tmp_path):
    tiff(tmp_path / "a.tif", DEEP[..., :2], planarconfig="contig", **TILES)
    np.save(tmp_path / "b.npy", PIXELS[..., 0])
    paths = [tmp_path / "a.tif", tmp_path / "b.npy"]
    assert_windows(windows.image_in(paths, 3), bands.decode_bands(paths, 3))


@pytest.mark.parametrize(
    ("name", "write", "colors"),
    [
        ("tiles.tif", lambda path: tiff(path, LABEL, **TILES), ()),
        ("deep.tif", lambda path: tiff(path, LABEL.astype(np.uint16) * 300, **STRIPS), ()),
        ("palette.tif", lambda path: tiff(path, LABEL, "palette", colormap=np.zeros((3, 256), "H"), **TILES), ()),
        ("array.npy", lambda path: np.save(path, LABEL.astype(np.int32)), ()),
        ("colours.tif", lambda path: tiff(path, LABEL[..., None].repeat(3, 2), "rgb", **TILES), COLOURS),
    ],
)
def test_a_window_is_that_of_the_whole_mask(tmp_path, name, write, colors):
    write(tmp_path / name)
    whole = decode.decode_mask(tmp_path / name, name, colors)
    found = windows.mask_in(tmp_path / name, colors, nearest=False)
    np.testing.assert_array_equal(found[5:40, 7:70], whole[5:40, 7:70])
    np.testing.assert_array_equal(np.asarray(found), whole)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.png", lambda path: Image.fromarray(PIXELS[..., :3]).save(path)),
        ("turned.tif", lambda path: tiff(path, PIXELS[..., :3], "rgb", extratags=[(274, "H", 1, 6, True)])),
        ("white.tif", lambda path: tiff(path, PIXELS[..., 0], "miniswhite", **TILES)),
        ("cut.tif", lambda path: path.write_bytes(b"II*\0\x08\0\0\0\xff\0")),
        ("palette.tif", lambda path: Image.fromarray(LABEL).convert("P").save(path)),
    ],
)
def test_what_is_decoded_whole(tmp_path, name, write):
    write(tmp_path / name)
    assert windows.image_in([tmp_path / name], 0) is None


def make(root, *, image="tif", mask="tif"):
    """Two pairs in the layout of CamVid, and a small one; the first image shows class 6 in one place alone."""
    for split in ("train", "trainannot"):
        (root / split).mkdir(parents=True)
    for name, (h, w) in {"a": (H, W), "b": (H - 2, W), "small": (20, 25)}.items():
        label = np.minimum(LABEL[:h, :w], 5)
        label[50:53, 70:72] = 6
        if image == "tif":
            tiff(root / "train" / f"{name}.tif", PIXELS[:h, :w, :3], "rgb", **TILES)
        else:
            Image.fromarray(PIXELS[:h, :w, :3]).save(root / "train" / f"{name}.png")
        if mask == "tif":
            tiff(root / "trainannot" / f"{name}.tif", label, **STRIPS)
        else:
            Image.fromarray(label).save(root / "trainannot" / f"{name}.png")
    return str(root)


@pytest.mark.parametrize("seek", [0.0, 0.5])
def test_batches_are_those_of_pictures_decoded_whole(tmp_path, data_config, seek):
    """Scaled crops too; whichever of image and mask is read by windows."""
    roots = [make(tmp_path / "whole", image="png", mask="png")]
    roots += [make(tmp_path / "both"), make(tmp_path / "image", mask="png")]
    found = []
    for root in roots:
        config = data_config(dir=root, foreground={"probability": seek, "classes": ("c6",)})
        source = load_source(config, "train")
        sample = source.by_window(0)
        by_window = not root.endswith("whole")
        assert isinstance(sample["image"], windows.FileArray) == by_window
        assert isinstance(sample["label"], windows.FileArray) == root.endswith("both")
        assert isinstance(source.by_window(2)["image"], np.ndarray)
        batches = train_batches(source, config, batch_size=5, seed=3)
        found.append([next(batches) for _ in range(4)])
        batches.close()
    for other in found[1:]:
        for one, batch in zip(found[0], other):
            np.testing.assert_array_equal(batch["image"], one["image"])
            np.testing.assert_array_equal(batch["label"], one["label"])


def test_counts_and_sizes_are_those_of_the_whole(tmp_path, data_config, monkeypatch):
    config = data_config(dir=make(tmp_path / "a"), sampling={"power": 0.5, "threshold": 0.1, "empty": 1.0})
    found = survey(source := ByWindow(load_source(config, "train")))
    monkeypatch.setattr(windows, "LARGE", 1 << 25)
    np.testing.assert_array_equal(found.pixel_counts, (whole := survey(load_source(config, "train"))).pixel_counts)
    assert found.sizes == whole.sizes == ((H, W), (H - 2, W), (20, 25))
    np.testing.assert_array_equal(
        sampling.places(source, config), sampling.places(load_source(config, "train"), config)
    )
    # Pictures that are resized, or looked at before they are cut, are read whole.
    monkeypatch.setattr(windows, "LARGE", 1000)
    shapes = {"flip": {"transforms": ("flip", "scale_crop")}, "none": {}, "half": {"resolution": 0.5}}
    for name, changes in shapes.items():
        changed = data_config(dir=config.dir, **changes)
        label = training_samples(load_source(changed, "train"), changed)[0]["label"]
        assert isinstance(label, windows.FileArray if name == "none" else np.ndarray)


def test_what_is_wrong_with_a_very_large_pair(tmp_path, data_config):
    config = data_config(dir=make(tmp_path / "a"))
    mask = tmp_path / "a/trainannot/a.tif"
    good = mask.read_bytes()
    tiff(mask, LABEL[:-1], **TILES)
    with pytest.raises(UserError, match=r"a\.tif: the mask is 83x60 pixels, its image .*train/a\.tif is 83x61"):
        survey(ByWindow(load_source(config, "train")))
    tiff(mask, LABEL + np.uint8(9 * (LABEL == 3)), **TILES)
    with pytest.raises(UserError, match=r"trainannot/a\.tif: the mask holds the value 12, which is not in the table"):
        survey(ByWindow(load_source(config, "train")))
    mask.write_bytes(good)
    image = tmp_path / "a/train/a.tif"
    with tifffile.TiffFile(image) as file:
        place = file.pages[0].dataoffsets[7]
    damaged = bytearray(image.read_bytes())
    damaged[place : place + 9] = b"\xff" * 9
    image.write_bytes(damaged)
    with pytest.raises(UserError, match=r"train/a\.tif: cannot be decoded"):
        survey(source := ByWindow(load_source(config, "train")))
    sample = source[0]
    image.unlink()
    with pytest.raises(UserError, match=r"train/a\.tif: cannot be read \(.*No such file"):
        sample["image"][:5, :5]


def test_the_limit_of_pixels(tmp_path, data_config, monkeypatch):
    """By the header, of files of all kinds; by windows more are read."""
    config = data_config(dir=make(tmp_path / "a", image="png", mask="png"), max_pixels=H * W)
    survey(load_source(config, "train"))
    config.max_pixels = H * W - 1
    # Neither is decoded.
    decode_pair = decode.decode_pair
    monkeypatch.setattr(decode, "decode_pair", lambda *_, **__: 1 / 0)
    words = r"train/a\.png: the picture has 83 x 61 = 5,063 pixels, and config\.data\.max_pixels=5,062: .*=5063"
    with pytest.raises(UserError, match=words):
        load_source(config, "train")[0]
    config.dir = make(tmp_path / "b")
    config.max_pixels = 500
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    monkeypatch.setattr(decode, "decode_pair", decode_pair)
    assert survey(ByWindow(load_source(config, "train"))).sizes[0] == (H, W)
    with pytest.raises(UserError, match=r"a\.tif: the picture has 5,063 pixels, and config\.data\.max_pixels=500"):
        load_source(config, "train").size(0)
    np.save(tmp_path / "a.npy", DEEP)
    tiff(tmp_path / "a.tif", DEEP, planarconfig="contig")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W)
    for path in (tmp_path / "a.npy", tmp_path / "a.tif"):
        limits.check_pixels(path, "a", H * W)
        with pytest.raises(UserError, match="a: the picture has 83 x 61 = 5,063 pixels"):
            limits.check_pixels(path, "a", H * W - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = (tmp_path / "a/train/a.png").read_bytes()
    with pytest.raises(UserError, match=r"a: the picture has 5,063 pixels, and config\.data\.max_pixels=90"):
        limits.check_pixels(data, "a", 90)
    # Beyond Pillow's own limit where the config says so.
    limits.allow(H * W)
    assert decode.decode_image(data, "a").shape == (H, W, 3)


def test_the_doctor_reads_by_bands_what_pillow_refuses(tmp_path, monkeypatch):
    tiff(tmp_path / "rgb.tif", PIXELS[..., :3], "rgb", **TILES)
    tiff(tmp_path / "bands.tif", DEEP, planarconfig="contig", **TILES)
    tiff(tmp_path / "mask.tif", LABEL, **TILES)
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "a.png")
    names = ("rgb.tif", "bands.tif")
    before, counted = [read_image(tmp_path / name) for name in names], read_mask(tmp_path / "mask.tif")
    monkeypatch.setattr(limits, "MAX_PIXELS", H * W - 1)
    after = [read_image(tmp_path / name) for name in names]
    for one, other in zip(before, after):
        kept = ("format", "mode", "bits", "size", "stored", "pages", "digest", "channels")
        assert [getattr(one, key) for key in kept] == [getattr(other, key) for key in kept]
    assert before[0].moments is after[0].moments is None
    np.testing.assert_allclose(before[1].moments.mean, after[1].moments.mean, rtol=1e-12)
    assert read_mask(tmp_path / "mask.tif").values == counted.values
    # Evaluation takes pictures whole: one that is read by windows is left out of the validation split alone.
    for split in ("train", "val"):
        for part, pixels in (("images", PIXELS[..., :3]), ("masks", LABEL)):
            (tmp_path / "set" / part / split).mkdir(parents=True)
            tiff(tmp_path / "set" / part / split / "a.tif", pixels, *["rgb"] * (part == "images"), **TILES)
    diagnosis = examine.examine(examine.make_plan(tmp_path / "set"), threads=1)
    assert diagnosis.summary.unusable == ["images/val/a.tif"] and diagnosis.summary.pairs == {"train": 1}
    assert not diagnosis.decisions and "no pair of 'val' is left" in str(diagnosis.findings)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W // 2 - 1)
    facts = read_pair(tmp_path, "train", Pair("a", "a.png", "mask.tif"))
    assert re.search(r"a\.png: the picture has .* config\.data\.max_pixels=5,062", str(facts.image))
    assert facts.mask.values == counted.values


def test_memory_holds_a_window(tmp_path, monkeypatch):
    """Of 24 MB, tiles of 64 KB and maps of the file."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4000, 3), np.uint8).repeat(2000, 0)
    tiff(tmp_path / "a.tif", pixels, "rgb", tile=(128, 128), compression="zlib", compressionargs={"level": 1})
    tiff(tmp_path / "plain.tif", pixels, "rgb")
    for name in ("a.tif", "plain.tif"):
        tracemalloc.start()
        found = windows.image_in([tmp_path / name], 0)[900:1100, 1900:2100]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        np.testing.assert_array_equal(found, pixels[900:1100, 1900:2100])
        assert peak < 3 << 20


TRAIN = """
import resource, sys
from attnseg_jax.configs import default
from attnseg_jax.data.pipeline import train_batches, training_samples
from attnseg_jax.data.sources import load_source, survey
data = default.get_config().data
data.update(source="folder", name="", dir=sys.argv[1], classes=("a", "b"), crop=(512, 512), scale=(0.5, 2.0))
data.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), threads=1)
source = load_source(data, "train")
assert survey(training_samples(source, data), 1).pixel_counts.sum() == 20_000**2
batches = train_batches(source, data, batch_size=2, seed=0)
for _ in range(5):
    assert next(batches)["image"].shape == (2, 512, 512, 3)
batches.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_crops_of_20000_rows_and_columns_in_1_gib(tmp_path):
    """1.2 GB of image and 0.4 GB of mask, counted and trained on."""
    rng = np.random.default_rng(0)
    some = rng.integers(0, 256, (4, 32, 32, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    options = {"dtype": np.uint8, "tile": (512, 512), "compression": "zlib", "compressionargs": {"level": 1}}
    for name, parts, shape in (("train", some, (3,)), ("trainannot", some[..., 0] // 128, ())):
        (tmp_path / name).mkdir()
        tiles = (parts[i % 4] for i in range(40 * 40))
        kind = "rgb" if shape else "minisblack"
        tifffile.imwrite(tmp_path / name / "a.tif", tiles, shape=(20_000, 20_000, *shape), photometric=kind, **options)
    run = subprocess.run([sys.executable, "-c", TRAIN, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 1 << 20, "KiB"
